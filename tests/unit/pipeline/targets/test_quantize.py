from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitlake.pipeline.settings.models import TargetSettings
from logitlake.pipeline.targets.quantize import code_sums, systematic_codes

weights = st.lists(st.floats(0, 1, width=32), min_size=0, max_size=12)
uniform = st.floats(0, 1, exclude_max=True)


def reference(heads: list[float], rest: float, u: float, levels: int) -> list[int]:
    """One position, one head at a time, straight from the definition."""
    total = sum(heads) + rest
    codes, reached, before = [], 0.0, 0
    for head in heads:
        reached += head / total * levels
        now = min(int(np.floor(reached + u)), levels)
        codes.append(now - before)
        before = now
    return codes


def codes_of(heads: list[float], rest: float, u: float, levels: int) -> np.ndarray:
    offsets = np.array([0, len(heads)])
    return systematic_codes(np.array(heads), offsets, np.array([rest]), np.array([u]), levels)


@given(weights, st.floats(0.01, 1), uniform, st.sampled_from([2, 64, 65535]))
@settings(max_examples=300, deadline=None)
def test_codes_are_within_one_level_and_never_sum_above_all_levels(
    heads: list[float], rest: float, u: float, levels: int
) -> None:
    codes = codes_of(heads, rest, u, levels)
    exact = np.array(heads) / (sum(heads) + rest) * levels
    assert (np.abs(codes - exact) < 1 + 1e-6).all()
    assert codes.sum() <= levels
    assert abs(codes.sum() - exact.sum()) < 1 + 1e-6


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12), uniform, st.sampled_from([2, 64, 65535]))
@settings(max_examples=300, deadline=None)
def test_codes_sum_to_exactly_all_levels_where_nothing_is_left(heads: list[float], u: float, levels: int) -> None:
    assert codes_of(heads, 0.0, u, levels).sum() == levels


@pytest.mark.parametrize("levels", [64, 65535])
def test_a_uniform_next_to_one_does_not_round_up_past_the_levels(levels: int) -> None:
    assert codes_of([1.0], 0.0, np.nextafter(1, 0), levels).tolist() == [levels]
    assert codes_of([0.5, 0.5], 1e-300, np.nextafter(1, 0), levels).sum() == levels


@pytest.mark.parametrize("levels", [2, 64, 65535])
def test_codes_are_those_of_the_definition_for_positions_of_every_length(levels: int) -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, 200)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    heads, rest, u = rng.random(offsets[-1]), rng.random(200) + 0.01, rng.random(200)
    found = systematic_codes(heads, offsets, rest, u, levels)
    for i in range(200):
        expected = reference(heads[offsets[i] : offsets[i + 1]].tolist(), rest[i], u[i], levels)
        assert found[offsets[i] : offsets[i + 1]].tolist() == expected
    np.testing.assert_array_equal(code_sums(found, offsets), [found[a:b].sum() for a, b in pairwise(offsets)])


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=6), st.floats(0.001, 1))
@settings(max_examples=50, deadline=None)
def test_the_mean_code_over_a_grid_of_uniforms_is_the_probability(heads: list[float], rest: float) -> None:
    """The mean over u of floor(x + u) is x: on a grid of 1,000 midpoints to within one step of the grid."""
    n, levels = 1000, 64
    codes = systematic_codes(
        np.tile(heads, n),
        np.arange(n + 1) * len(heads),
        np.full(n, rest),
        (np.arange(n) + 0.5) / n,
        levels,
    ).reshape(n, -1)
    exact = np.array(heads) / (sum(heads) + rest) * levels
    assert np.abs(codes.mean(axis=0) - exact).max() < 2 / n


@pytest.mark.parametrize("levels", [0, 65536])
def test_levels_that_a_16_bit_code_cannot_hold_are_refused(levels: int) -> None:
    with pytest.raises(ValueError, match="levels"):
        codes_of([1.0], 0.0, 0.5, levels)


@pytest.mark.parametrize(
    ("settings_", "levels"),
    [
        ({"sparsifier": "varopt"}, 64),
        ({"sparsifier": "varopt", "levels": 256}, 256),
        ({"sparsifier": "random", "draws": 25}, 25),
        ({"sparsifier": "top_k"}, 65535),
        ({"sparsifier": "top_p"}, 65535),
    ],
)
def test_levels_follow_the_sparsifier_unless_they_are_set(settings_: dict[str, Any], levels: int) -> None:
    assert TargetSettings.model_validate(settings_).levels_in_use == levels
