"""Divergences by the formula, and what is not a number never passes."""

import numpy as np
import pytest
import torch

from logitlake.pipeline.checks.probabilities import compared_logprobs, divergence, with_other_ends
from logitlake.pipeline.tokens.sequences import TokenSequence


def logprobs(seed: int, positions: int = 7, vocabulary: int = 50) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(positions, vocabulary)) * 3).log_softmax(-1)


def test_the_divergence_is_the_mean_kl() -> None:
    p, q = logprobs(0).exp().numpy(), logprobs(1).exp().numpy()
    expected = np.mean([sum(a * np.log(a / b) for a, b in zip(*rows, strict=True)) for rows in zip(p, q, strict=True)])
    assert divergence(logprobs(0), logprobs(1)) == pytest.approx(expected)
    assert divergence(logprobs(0), logprobs(0)) == 0


def test_an_id_without_probability_in_both_is_no_difference_and_in_one_it_is_infinite() -> None:
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0)).double()
    masked = logits.clone()
    masked[:, 4] = -torch.inf
    assert divergence(masked.log_softmax(-1), masked.log_softmax(-1)) == 0
    assert divergence(logits.log_softmax(-1), masked.log_softmax(-1)) == float("inf")


@pytest.mark.parametrize("broken", [torch.full((7, 50), torch.nan), torch.zeros(6, 50)])
def test_nan_and_another_number_of_positions_differ(broken: torch.Tensor) -> None:
    assert divergence(logprobs(0), broken) == divergence(broken, logprobs(0)) == float("inf")
    found = compared_logprobs("c", ["a", "b"], [logprobs(0)] * 2, [logprobs(0), broken], limit=1.0, what="other")
    assert (found.result, found.detail) == ("differs", "b: other")


def test_the_worst_sequence_is_named() -> None:
    near = (logprobs(0) + 1e-3 * logprobs(2)).log_softmax(-1)
    found = compared_logprobs("c", ["a", "b"], [logprobs(0)] * 2, [near, logprobs(1)], limit=1e-6, what="other")
    assert (found.result, found.difference) == ("differs", divergence(logprobs(0), logprobs(1)))
    assert (found.detail, found.compared) == ("b: other", 14)


def test_a_sequence_with_another_end_keeps_its_length_and_the_targets_before() -> None:
    ids = np.arange(10, dtype=np.int32)
    has_target = np.array([0, 1, 1, 0, 1, 1, 0, 0, 1, 0], bool)
    one = np.eye(10, dtype=bool)[3]
    sequences = [TokenSequence("d", 0, 0, ids, has_target), TokenSequence("d", 1, 0, ids, one)]
    [(index, other)] = with_other_ends(sequences, 10)
    assert (index, other.input_ids.tolist()) == (0, [0, 1, 2, 3, 5, 6, 7, 8, 9, 0])
    assert np.flatnonzero(other.has_target).tolist() == [1, 2]
    assert sequences[0].input_ids.tolist() == list(range(10))
