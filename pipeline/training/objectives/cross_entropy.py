"""The cross-entropy of the real next tokens: plain fine-tuning, always at temperature 1."""

import torch

from logitlake.pipeline.training.loss_terms import LossTerm, make_term
from logitlake.pipeline.training.objectives import LossInputs


def cross_entropy(inputs: LossInputs) -> LossTerm:
    """One entry a position, the real next token. Raises ValueError if these are not given."""
    if inputs.next_ids is None:
        raise ValueError("cross_entropy needs next_ids_N, the real next token of each position")
    weights_P = torch.full(inputs.next_ids.shape, inputs.share, dtype=inputs.probs.dtype, device=inputs.counts.device)
    return make_term(1.0, torch.ones_like(inputs.counts), inputs.next_ids, weights_P, None)
