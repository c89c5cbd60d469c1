"""Tokens are drawn from the distribution that the settings describe, by uniforms that belong to the sample."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from logitlake.pipeline.traces.sampling import draw, sample_keys, uniforms_at
from logitlake.pipeline.traces.writer import Sampling

PLAIN = Sampling(temperature=1.0, top_k=None, top_p=1.0, max_new_tokens=8, seed=0, stop_ids=())
LOGITS_1V = torch.tensor([[2.0, 0.5, -1.0, 1.5, 0.0, -torch.inf, 1.0]])


def reference(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The distribution, slowly: temperature, then top_k, then top_p, then normalised."""
    with np.errstate(divide="ignore"):
        p = np.exp(logits / sampling.temperature)
    p /= p.sum()
    order = np.argsort(-p)
    if sampling.top_k is not None:
        p[order[sampling.top_k :]] = 0
        p /= p.sum()
    kept, mass = [], 0.0
    for index in order:
        if mass >= sampling.top_p:
            break
        kept.append(index)
        mass += p[index]
    only = np.zeros_like(p)
    only[kept] = p[kept]
    return only / only.sum()


@pytest.mark.parametrize(
    "change",
    [{}, {"temperature": 0.5}, {"temperature": 2.0, "top_k": 3}, {"top_p": 0.7}, {"top_k": 4, "top_p": 0.8}],
    ids=str,
)
def test_a_grid_of_uniforms_gives_each_id_its_share(change: dict[str, float]) -> None:
    sampling = replace(PLAIN, **change)
    n = 20_000
    grid_N = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    ids_N, _ = draw(LOGITS_1V.expand(n, -1), grid_N, sampling)
    shares = np.bincount(ids_N.numpy(), minlength=LOGITS_1V.shape[1]) / n
    assert shares == pytest.approx(reference(LOGITS_1V[0].double().numpy(), sampling), abs=2 / n)


def test_the_logprob_is_that_of_the_whole_distribution_at_temperature_one() -> None:
    sampling = replace(PLAIN, temperature=0.3, top_k=2)
    ids_B, logprobs_B = draw(LOGITS_1V, torch.tensor([0.1], dtype=torch.float64), sampling)
    expected = torch.log_softmax(LOGITS_1V.double(), -1)[0, ids_B[0]]
    assert logprobs_B[0].item() == pytest.approx(expected.item(), abs=1e-6)


def test_temperature_zero_takes_the_most_probable_id() -> None:
    ids_B, _ = draw(LOGITS_1V, torch.tensor([0.999]), replace(PLAIN, temperature=0.0))
    assert ids_B.tolist() == [0]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_interval_draw_an_id_that_has_probability(uniform: float) -> None:
    logits_1V = torch.tensor([[-torch.inf, 0.0, -30.0, -torch.inf]])
    ids_B, logprobs_B = draw(logits_1V, torch.tensor([uniform], dtype=torch.float64), PLAIN)
    assert ids_B.item() in (1, 2) and torch.isfinite(logprobs_B).all()


def test_a_uniform_belongs_to_seed_prompt_sample_and_position() -> None:
    alone = uniforms_at(sample_keys(1, [("p", 2)]), 5)
    among = uniforms_at(sample_keys(1, [("q", 2), ("p", 2)]), 5)
    assert alone[0] == among[1]
    others = [(2, "p", 2, 5), (1, "q", 2, 5), (1, "p", 3, 5), (1, "p", 2, 6)]
    for seed, prompt, number, position in others:
        assert uniforms_at(sample_keys(seed, [(prompt, number)]), position)[0] != alone[0]
