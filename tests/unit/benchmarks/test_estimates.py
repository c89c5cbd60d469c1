"""Noise, bias and rounding as the benchmarks count them, against dense arithmetic over the whole vocabulary."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.estimates import (
    Estimate,
    angle_degrees,
    decode,
    mean_and_error,
    merge,
    rounding_divergence,
    squared_bias,
    squared_error,
    value_at,
)
from logitlake.pipeline.settings.models import TargetSettings
from logitlake.pipeline.targets.counter_random import document_keys, uniforms
from logitlake.pipeline.targets.sparsifiers import make_sparsifier
from logitlake.pipeline.targets.sparsifiers.blocks import Blocks

P, V = 24, 300


def logits() -> torch.Tensor:
    return torch.randn(P, V, generator=torch.Generator().manual_seed(0)) * 3


def dense(estimate: Estimate) -> NDArray[np.float64]:
    full = np.zeros((P, V))
    np.add.at(full, (estimate.rows, estimate.ids), estimate.probs)
    return full


def draw(seed: int, **settings: object) -> Estimate:
    sparsifier = make_sparsifier(TargetSettings.model_validate(settings))
    keys = np.repeat(document_keys(seed, ["document"]), P, axis=0)
    drawn = sparsifier(Blocks(logits()), uniforms(keys, np.arange(P), sparsifier.streams))
    return decode(drawn, renormalise=settings["sparsifier"] == "top_k")


@pytest.mark.parametrize(
    "settings", [{"sparsifier": "varopt"}, {"sparsifier": "random"}, {"sparsifier": "top_k", "k": 5}]
)
def test_every_estimate_sums_to_one_and_names_an_id_once(settings: dict[str, object]) -> None:
    estimate = draw(0, **settings)
    assert dense(estimate).sum(axis=1) == pytest.approx(np.ones(P))
    assert len(set(zip(estimate.rows.tolist(), estimate.ids.tolist(), strict=True))) == len(estimate.rows)


def test_squared_error_is_that_of_the_dense_difference() -> None:
    probs = logits().softmax(-1)
    estimate = draw(0, sparsifier="varopt", threshold=0.1)
    expected = ((dense(estimate) - probs.double().numpy()) ** 2).sum(axis=1)
    assert squared_error(estimate, probs) == pytest.approx(expected, abs=1e-6)


def test_squared_bias_of_a_truncation_is_its_squared_error() -> None:
    probs = logits().softmax(-1)
    same = [draw(0, sparsifier="top_k", k=3)] * 8
    assert squared_bias(same, probs) == pytest.approx(squared_error(same[0], probs), abs=1e-6)


def test_squared_bias_of_unbiased_draws_is_zero_within_its_error() -> None:
    probs = logits().softmax(-1)
    draws = [draw(seed, sparsifier="varopt", threshold=0.2) for seed in range(64)]
    mean, error = mean_and_error(squared_bias(draws, probs))
    noise = float(squared_error(draws[0], probs).mean())
    assert abs(mean) < 4 * error
    assert error < noise / 16


def test_entries_of_one_id_are_added_up() -> None:
    merged = merge(2, np.array([1, 1, 0]), np.array([7, 7, 3]), np.array([0.25, 0.5, 1.0]))
    assert merged.rows.tolist() == [0, 1]
    assert merged.ids.tolist() == [3, 7]
    assert merged.probs.tolist() == [1.0, 0.75]


def test_rounding_costs_nothing_where_probabilities_are_whole_codes() -> None:
    halves = torch.log(torch.tensor([[0.5, 0.25, 0.25, 0.0]]))
    targets = make_sparsifier(TargetSettings(threshold=0.2))(Blocks(halves), np.array([[0.3, 0.3]]))
    assert rounding_divergence(targets, halves.softmax(-1)) == pytest.approx([0.0], abs=1e-6)
    coarse = make_sparsifier(TargetSettings(threshold=0.2, levels=3))(Blocks(halves), np.array([[0.3, 0.3]]))
    assert rounding_divergence(coarse, halves.softmax(-1))[0] > 0.01


def test_value_between_two_budgets_lies_on_the_line_in_log_over_log() -> None:
    assert value_at(10, [(1, 2), (100, 200)]) == pytest.approx(20)
    assert value_at(1000, [(1, 2), (10, 20), (100, 200)]) == pytest.approx(2000)


def test_angle_is_between_directions_whatever_the_lengths() -> None:
    assert angle_degrees(0, 3, 5) == pytest.approx(90)
    assert angle_degrees(30.0000001, 3, 10) == 0
