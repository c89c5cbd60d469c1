"""Targets from the most probable ids alone, against those of the sparsifier `top_k` over whole distributions."""

import numpy as np
import pytest
import torch

from logitlake.pipeline.targets.sparsifiers.blocks import Blocks
from logitlake.pipeline.targets.sparsifiers.top_k import TopK
from logitlake.pipeline.targets.top_logprobs import targets_of_logprobs

POSITIONS, VOCABULARY, LEVELS = 40, 300, 2000


@pytest.fixture
def logprobs_PV() -> np.ndarray:  # noqa: N802 (shape suffix)
    rng = np.random.default_rng(0)
    x_PV = torch.from_numpy(rng.standard_normal((POSITIONS, VOCABULARY)) * 4).float()
    return x_PV.log_softmax(-1).double().numpy()


def largest(logprobs_PV: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    ids_Pk = np.argsort(-logprobs_PV, axis=1, kind="stable")[:, :k]
    return ids_Pk, np.take_along_axis(logprobs_PV, ids_Pk, 1)


@pytest.mark.parametrize("k", [1, 7, 50, VOCABULARY])
def test_the_draws_are_those_of_top_k_over_the_whole_distribution(logprobs_PV: np.ndarray, k: int) -> None:
    uniforms_P1 = np.random.default_rng(1).random((POSITIONS, 1))
    found = targets_of_logprobs(*largest(logprobs_PV, k), uniforms_P1, levels=LEVELS, vocabulary=VOCABULARY)
    whole = TopK(k=k, levels=LEVELS)(Blocks(torch.from_numpy(logprobs_PV).float()), uniforms_P1)
    # Rounding to float32 may move a sum over a border: then two neighbours differ by one level.
    assert np.mean(found.codes != whole.codes[: len(found.codes)]) < 0.01
    np.testing.assert_array_equal(found.id_offsets, whole.id_offsets)
    np.testing.assert_array_equal(found.ids, whole.ids)


def test_the_codes_are_the_probabilities_and_the_residual_mass_is_what_was_cut(logprobs_PV: np.ndarray) -> None:
    ids_Pk, logprobs_Pk = largest(logprobs_PV, 10)
    codes = [
        targets_of_logprobs(ids_Pk, logprobs_Pk, np.full((POSITIONS, 1), u), levels=100, vocabulary=VOCABULARY)
        for u in (np.arange(500) + 0.5) / 500
    ]
    dense_PV = np.zeros((POSITIONS, VOCABULARY))
    for targets in codes:
        rows = np.repeat(np.arange(POSITIONS), np.diff(targets.id_offsets))
        dense_PV[rows, targets.ids] += targets.codes / 100 / len(codes)
    np.testing.assert_allclose(np.take_along_axis(dense_PV, ids_Pk, 1), np.exp(logprobs_Pk), atol=1e-4)
    np.testing.assert_allclose(1 - dense_PV.sum(axis=1), 1 - np.exp(logprobs_Pk).sum(axis=1), atol=1e-4)


def test_an_entry_that_stands_for_no_id_is_no_head() -> None:
    logprobs_Pk = np.array([[np.log(0.5), -np.inf, -np.inf], [np.log(0.5), np.log(0.25), -np.inf]])
    ids_Pk = np.array([[4, 0, 0], [3, 2, 0]])
    found = targets_of_logprobs(ids_Pk, logprobs_Pk, np.full((2, 1), 0.5), levels=100, vocabulary=9)
    assert found.ids.tolist() == [4, 3, 2]
    assert found.codes.tolist() == [50, 50, 25]


def test_rounding_above_a_mass_of_one_leaves_no_residual() -> None:
    logprobs_Pk = np.log(np.array([[0.75, 0.2501]]))
    found = targets_of_logprobs(np.array([[1, 2]]), logprobs_Pk, np.full((1, 1), 0.9), levels=1000, vocabulary=9)
    assert found.codes.sum() == 1000


@pytest.mark.parametrize("values", [[0.9, 0.2], [float("nan"), 0.1]])
def test_values_that_are_no_probabilities_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="sum to 1 at most"):
        targets_of_logprobs(np.array([[1, 2]]), np.log(np.array([values])), np.zeros((1, 1)), levels=100, vocabulary=9)
