"""Draws tokens from logits, with uniforms that belong to (seed, prompt, sample, position).

The same uniform gives the same token whatever else is in the batch, apart from the floating-point noise of the logits.

Shapes: B rows, V ids of the vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch

from logitlake.pipeline.targets.counter_random import document_keys, uniforms
from logitlake.pipeline.traces.writer import Sampling


def sample_keys(seed: int, samples: Sequence[tuple[str, int]]) -> np.ndarray:
    """One key `uint64[B, 2]` for each (prompt id, sample number)."""
    return document_keys(seed, [f"{prompt_id}:{number}" for prompt_id, number in samples])


def uniforms_at(keys_B2: np.ndarray, position: int) -> torch.Tensor:
    """The uniforms `float64[B]` of the token number `position` of each completion."""
    return torch.from_numpy(uniforms(keys_B2, np.full(len(keys_B2), position), 1)[:, 0])


def draw(logits_BV: torch.Tensor, uniforms_B: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """One id `int64[B]` for each row by inverse CDF in the order of the ids, and its log-probability at temperature 1.

    The log-probability is that of the whole distribution: neither temperature nor top_k and top_p change it.
    """
    logits_BV = logits_BV.float()
    is_greedy = sampling.temperature == 0
    ids_B = logits_BV.argmax(-1) if is_greedy else _inverse_cdf(_kept(logits_BV, sampling), uniforms_B)
    chosen_B = logits_BV.gather(1, ids_B[:, None])[:, 0]
    return ids_B, (chosen_B - logits_BV.logsumexp(-1)).clamp(max=0)


def _kept(logits_BV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities at the temperature, 0 for ids that top_k and top_p leave out; they need not sum to 1."""
    scaled_BV = logits_BV.to(_precise(logits_BV.device)) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scaled_BV.shape[1]:
        bound_B1 = scaled_BV.topk(sampling.top_k, -1).values[:, -1:]
        scaled_BV = scaled_BV.masked_fill(scaled_BV < bound_B1, -torch.inf)
    probabilities_BV = scaled_BV.softmax(-1)
    if sampling.top_p < 1:
        sorted_BV = probabilities_BV.sort(-1, descending=True).values
        # An id is kept if those before it have less than top_p together: the most probable one always is.
        is_kept_BV = sorted_BV.cumsum(-1) - sorted_BV < sampling.top_p
        bound_B1 = sorted_BV.gather(1, is_kept_BV.sum(-1, keepdim=True) - 1)
        probabilities_BV = probabilities_BV.masked_fill(probabilities_BV < bound_B1, 0)
    return probabilities_BV


def _inverse_cdf(probabilities_BV: torch.Tensor, uniforms_B: torch.Tensor) -> torch.Tensor:
    cdf_BV = probabilities_BV.cumsum(-1)
    wanted_B1 = uniforms_B.to(cdf_BV.device, cdf_BV.dtype)[:, None] * cdf_BV[:, -1:]
    ids_B = torch.searchsorted(cdf_BV, wanted_B1, right=True)[:, 0]
    # Rounding may put the product on the total itself.
    n_ids = probabilities_BV.shape[1]
    last_B = n_ids - 1 - (probabilities_BV > 0).flip(-1).int().argmax(-1)
    return torch.minimum(ids_B, last_B)


def _precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
