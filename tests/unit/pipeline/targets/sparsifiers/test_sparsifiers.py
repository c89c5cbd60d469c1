"""What each sparsifier keeps, against a slow and obvious version of itself."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from logitlake.pipeline.settings.models import TargetSettings
from logitlake.pipeline.targets.counter_random import document_keys, uniforms
from logitlake.pipeline.targets.quantize import systematic_codes
from logitlake.pipeline.targets.sparsifiers import make_sparsifier
from logitlake.pipeline.targets.sparsifiers.blocks import Blocks
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets, concatenate

torch.set_num_threads(1)
Dense = Callable[[CodedTargets, int], np.ndarray]
SETTINGS = {
    "varopt": TargetSettings(threshold=0.05),
    "random": TargetSettings(sparsifier="random", draws=20),
    "top_k": TargetSettings(sparsifier="top_k", k=7),
    "top_p": TargetSettings(sparsifier="top_p", p=0.8, max_k=64),
}
# Sharp and flat, V below, at and above multiples of the block, ids past 2^16.
SHAPES = [(40, 3, 3.0), (40, 128, 2.0), (40, 300, 4.0), (40, 300, 0.0), (8, 70_001, 3.0)]


def example(n: int, vocabulary: int, scale: float) -> tuple[torch.Tensor, np.ndarray]:
    x = torch.randn(n, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * scale
    return x, torch.softmax(x.double(), 1).numpy()


def draws(n: int, streams: int) -> np.ndarray:
    return uniforms(np.repeat(document_keys(0, ["doc"]), n, axis=0), np.arange(n), streams)


def run(name: str, x: torch.Tensor) -> CodedTargets:
    sparsifier = make_sparsifier(SETTINGS[name])
    return sparsifier(Blocks(x), draws(len(x), sparsifier.streams))


def rows(targets: CodedTargets) -> list[tuple[list[int], list[int], list[int]]]:
    """Heads, codes and tails of each position."""
    found = []
    for p in range(len(targets.id_offsets) - 1):
        ids = targets.ids[targets.id_offsets[p] : targets.id_offsets[p + 1]].tolist()
        codes = targets.codes[targets.code_offsets[p] : targets.code_offsets[p + 1]].tolist()
        found.append((ids[: len(codes)], codes, ids[len(codes) :]))
    return found


@pytest.mark.parametrize(("n", "vocabulary", "scale"), SHAPES)
def test_varopt_is_threshold_sampling_as_published(n: int, vocabulary: int, scale: float) -> None:
    """Dense and one position at a time: heads by threshold, dithered codes, systematic sampling of the rest."""
    x, p = example(n, vocabulary, scale)
    u = draws(n, 2)
    agreed = 0
    for row, (heads, codes, tails) in enumerate(rows(run("varopt", x))):
        order = np.lexsort((np.arange(vocabulary), -p[row]))
        expected = [i for i in order if p[row, i] >= 0.05]
        rest = np.where(p[row] < 0.05, p[row], 0.0)
        offsets = np.array([0, len(expected)])
        coded = systematic_codes(p[row, expected], offsets, np.array([rest.sum()]), u[row, :1], 64)
        assert heads == [i for i, code in zip(expected, coded, strict=True) if code]
        assert codes == [code for code in coded if code]
        residual = 1 - sum(codes) / 64
        assert len(tails) == int(np.ceil(residual / 0.05 - 1e-9))
        points = (np.arange(len(tails)) + u[row, 1]) / max(len(tails), 1)
        drawn = np.searchsorted(np.cumsum(rest) / max(rest.sum(), 1e-300), points, side="right")
        agreed += drawn.tolist() == tails
    # A point within rounding of the border of two ids may fall on either side.
    assert agreed >= 0.97 * n


@pytest.mark.parametrize(("n", "vocabulary", "scale"), SHAPES)
def test_random_counts_draws_from_the_distribution(n: int, vocabulary: int, scale: float) -> None:
    x, p = example(n, vocabulary, scale)
    u = draws(n, 20)
    agreed = 0
    for row, (heads, codes, tails) in enumerate(rows(run("random", x))):
        drawn = np.searchsorted(np.cumsum(p[row]) / p[row].sum(), u[row], side="right")
        ids, counts = np.unique(drawn, return_counts=True)
        order = np.lexsort((ids, -counts))
        assert tails == []
        assert sum(codes) == 20
        agreed += heads == ids[order].tolist() and codes == counts[order].tolist()
    assert agreed >= 0.97 * n


@pytest.mark.parametrize(("n", "vocabulary", "scale"), [shape for shape in SHAPES if shape[2]])
@pytest.mark.parametrize("name", ["top_k", "top_p"])
def test_truncations_keep_the_most_probable_ids_in_order(name: str, n: int, vocabulary: int, scale: float) -> None:
    x, p = example(n, vocabulary, scale)
    for row, (heads, codes, tails) in enumerate(rows(run(name, x))):
        order = np.argsort(-p[row], kind="stable")
        mass_before = np.cumsum(p[row, order]) - p[row, order]
        kept = min(7, vocabulary) if name == "top_k" else min(int((mass_before < 0.8).sum()), 64)
        assert tails == []
        # An id whose code is 0 is dropped.
        assert [i for i in order[:kept] if i in heads] == heads
        assert all(p[row, i] < 1 / 65535 for i in set(order[:kept].tolist()) - set(heads))
        np.testing.assert_allclose(np.array(codes) / 65535, p[row, heads], atol=1.01 / 65535)


@pytest.mark.parametrize(("n", "vocabulary", "scale"), SHAPES)
@pytest.mark.parametrize("name", ["varopt", "random"])
def test_an_unbiased_target_always_has_mass_one(name: str, n: int, vocabulary: int, scale: float, dense: Dense) -> None:
    x, _ = example(n, vocabulary, scale)
    np.testing.assert_allclose(dense(run(name, x), vocabulary).sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_one_hot_distribution_is_one_head_of_all_the_mass(name: str) -> None:
    x = torch.full((50, 1000), -torch.inf)
    x[:, 777] = 5.0
    levels = make_sparsifier(SETTINGS[name]).levels
    assert rows(run(name, x)) == [([777], [levels], [])] * 50


def test_mass_that_is_one_but_for_a_trace_is_not_lost_to_rounding(dense: Dense) -> None:
    x = torch.full((200, 1000), -40.0)
    x[:, 4], x[:, 900] = 0.0, 0.0
    found = rows(run("varopt", x))
    assert all(set(heads) == {4, 900} and sum(codes) == 64 and tails == [] for heads, codes, tails in found)


def test_a_uniform_distribution_is_all_tail_spread_over_the_vocabulary() -> None:
    found = rows(run("varopt", torch.zeros(5, 1000)))
    for heads, _, tails in found:
        assert heads == []
        assert len(tails) == 20
        assert set(np.diff(tails)) == {50}


def test_tails_ascend_and_are_never_heads() -> None:
    x, p = example(200, 300, 2.0)
    for row, (heads, _, tails) in enumerate(rows(run("varopt", x))):
        assert tails == sorted(tails)
        assert not set(heads) & set(tails)
        assert (p[row, tails] < 0.05).all()


@pytest.mark.parametrize("name", SETTINGS)
def test_ids_of_minus_infinity_are_never_kept(name: str) -> None:
    x, _ = example(100, 400, 1.0)
    x[:, ::2] = -torch.inf
    assert (run(name, x).ids % 2 == 1).all()


@pytest.mark.parametrize("name", SETTINGS)
def test_how_positions_are_cut_into_chunks_changes_nothing(name: str) -> None:
    x, _ = example(60, 300, 2.5)
    sparsifier = make_sparsifier(SETTINGS[name])
    u = draws(60, sparsifier.streams)
    whole = sparsifier(Blocks(x), u)
    parts = concatenate(
        [sparsifier(Blocks(x[a:b]), u[a:b]) for a, b in ((0, 1), (1, 40), (40, 40), (40, 60))], sparsifier.levels
    )
    assert rows(parts) == rows(whole)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_position_at_all_is_no_target_at_all(name: str) -> None:
    assert rows(run(name, torch.zeros(0, 300))) == []


def test_rounding_is_dithered_on_heads_smaller_than_a_level(dense: Dense) -> None:
    """threshold 0.01 with 64 levels: heads of 0.012 have code 0 or 1, and the tails take up the rest."""
    sparsifier = make_sparsifier(TargetSettings(threshold=0.01, levels=64))
    x = torch.log(torch.tensor([0.012] * 50 + [0.4 / 250] * 250)).repeat(400, 1)
    estimate = dense(sparsifier(Blocks(x), draws(400, 2)), 300)
    np.testing.assert_allclose(estimate.sum(1), 1, atol=1e-12)
    # 20,000 head entries of about Var 0.012 · (1/64 - 0.012): 5 standard errors of their mean.
    assert abs(estimate[:, :50].mean() - 0.012) < 5 * np.sqrt(0.012 / 64 / 20_000)


def test_parts_of_different_levels_are_not_joined() -> None:
    with pytest.raises(ValueError, match="levels"):
        concatenate([run("varopt", torch.zeros(2, 50))], 65535)
