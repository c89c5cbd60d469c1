from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest

from logitlake.pipeline.exports.entries import merged_entries


def reference(row, *, renormalise):
    """Probabilities per position by the definition in docs/format.md, in exact fractions."""
    positions = []
    for ids, codes in zip(row["target_ids"], row["head_codes"], strict=True):
        probabilities = defaultdict(Fraction)
        tails = ids[len(codes) :]
        for token, code in zip(ids, codes, strict=False):
            probabilities[token] += Fraction(code, row["levels"])
        for token in tails:
            probabilities[token] += (1 - Fraction(sum(codes), row["levels"])) / len(tails)
        mass = sum(probabilities.values())
        if renormalise and ids and not tails:
            probabilities = {token: p / mass for token, p in probabilities.items()}
        positions.append({token: float(p) for token, p in probabilities.items()})
    return positions


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("cut_mass", ["ghost", "renormalise"])
def test_a_tail_gets_its_share_and_an_id_that_stands_twice_gets_the_sum(make_rows, tail, cut_mass):
    rows = make_rows([9, 4, 13], vocab=12, tail=tail).slice(1)
    entries = merged_entries(rows, cut_mass=cut_mass)
    expected = [
        position for row in rows.to_pylist() for position in reference(row, renormalise=cut_mass == "renormalise")
    ]
    for number, position in enumerate(expected):
        span = slice(entries.offsets[number], entries.offsets[number + 1])
        found = dict(zip(entries.ids[span].tolist(), entries.probs[span].tolist(), strict=True))
        assert found == pytest.approx(position, abs=1e-7)
        assert (np.diff(entries.probs[span]) <= 0).all()
    assert entries.row_offsets.tolist() == [0, 4, 17]


def test_the_mass_of_a_position_is_kept(make_rows):
    for tail, low, high in ((True, 1, 1), (False, 0.01, 0.99)):
        entries = merged_entries(make_rows([20], tail=tail), cut_mass="ghost")
        sums = np.bincount(np.repeat(np.arange(20), entries.counts), weights=entries.probs, minlength=20)
        sums = sums[entries.counts > 0]
        assert (sums >= low - 1e-6).all() and (sums <= high + 1e-6).all()
