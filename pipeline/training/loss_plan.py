"""Plans the loss of a batch: the terms to sum, from targets and the names of losses."""

from dataclasses import replace

import torch

from logitlake.pipeline.reading.batches import SparseTargets
from logitlake.pipeline.settings.registry import LOSSES
from logitlake.pipeline.training.loss_terms import LossPlan, LossTerm
from logitlake.pipeline.training.objectives import LossInputs
from logitlake.storage.errors import MismatchError

DEFAULT_LOSS = "divergence"
CROSS_ENTROPY = "cross_entropy"


def plan_loss(
    targets: SparseTargets,
    next_ids_N: torch.Tensor | None,
    vocab_size: int,
    cross_entropy_weight: float,
    temperature: float,
    n_positions: int,
    loss: str = DEFAULT_LOSS,
) -> LossPlan:
    """The terms of the loss: the named loss, mixed with the cross-entropy of the real next tokens.

    Raises ValueError for wrong shapes and weights, MismatchError for ids outside the vocabulary.
    """
    _check(targets, next_ids_N, cross_entropy_weight, temperature, n_positions)
    counts = targets.offsets.diff()
    positions_P = counts.nonzero().squeeze(1)
    counts_P = counts[positions_P]
    next_ids_P = None if next_ids_N is None else next_ids_N[positions_P]
    _check_vocabulary("target", targets.ids, vocab_size)
    inputs = LossInputs(
        counts=counts_P,
        ids=targets.ids,
        probs=targets.probs,
        ghost=None if targets.ghost is None else targets.ghost[positions_P],
        next_ids=next_ids_P,
        temperature=temperature,
        share=1.0,
    )
    shares = {loss: 1.0 - cross_entropy_weight}
    shares[CROSS_ENTROPY] = shares.get(CROSS_ENTROPY, 0.0) + cross_entropy_weight
    terms: list[LossTerm] = []
    for name, share in shares.items():
        if share > 0:
            term = LOSSES.load(name)(replace(inputs, share=share))
            if term.ids is not targets.ids:
                _check_vocabulary("next token" if term.ids is next_ids_P else name, term.ids, vocab_size)
            terms.append(term)
    if len(terms) == 2 and all(term.temperature == 1.0 and term.ghost is None for term in terms):
        terms = [_joined(*terms)]
    return LossPlan(positions_P, tuple(terms))


def _joined(soft: LossTerm, hard: LossTerm) -> LossTerm:
    """Both terms under one softmax: the real next token is one more entry of its position."""
    rows = torch.cat([soft.rows, hard.rows])
    order = torch.argsort(rows, stable=True)
    ids = torch.cat([soft.ids, hard.ids])[order]
    weights = torch.cat([soft.weights, hard.weights])[order]
    return LossTerm(1.0, soft.offsets + hard.offsets, rows[order], ids, weights, soft.totals + hard.totals, None)


def _check(
    targets: SparseTargets,
    next_ids_N: torch.Tensor | None,
    cross_entropy_weight: float,
    temperature: float,
    n_positions: int,
) -> None:
    if targets.n_positions != n_positions:
        raise ValueError(f"targets: expected {n_positions} positions, as the student has, found {targets.n_positions}")
    if not 0 <= cross_entropy_weight <= 1:
        raise ValueError(f"cross_entropy_weight must be in [0, 1], found {cross_entropy_weight}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, found {temperature}")
    if cross_entropy_weight > 0 and next_ids_N is None:
        raise ValueError("cross_entropy_weight needs next_ids_N, the real next token of each position")
    if next_ids_N is not None and next_ids_N.shape != (n_positions,):
        raise ValueError(f"next_ids_N must have the shape ({n_positions},), found {tuple(next_ids_N.shape)}")


def _check_vocabulary(name: str, ids: torch.Tensor, vocab_size: int) -> None:
    if ids.numel() == 0:
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= vocab_size:
        raise MismatchError(
            f"{name} ids: expected 0 to {vocab_size - 1}, the student's ids, found {low} to {high}; "
            "use a student with the vocabulary of the recipe's tokenizer"
        )
