"""The arithmetic of the loss on sparse targets: what is summed, block by block, and its gradient in the logits.

A term is one softmax: Σ over positions of T²·(Σw·logsumexp(x/T) - Σ w_i x_i/T), with gradient T·(Σw·softmax(x/T) - w)
in x. The divergence is one, with the target's probabilities as w; cross-entropy is one, with the real next token as the
only entry. At temperature 1 both share a softmax.

Ghost bucket: mass r = 1 - Σp̂ stands for all ids outside the stored set K together. The loss gains
r·(logsumexp(x) - logsumexp(x outside K)), so the gradient is q - p̂ inside K and q·(1 - r/m) outside, where q is the
softmax and m the student's mass outside K.

Shapes: N positions; P of them with a target; S rows of a block; V vocabulary; E stored entries.
"""

from dataclasses import dataclass

import torch

from logitlake.pipeline.reading.batches import SparseTargets
from logitlake.storage.errors import MismatchError

# Element-wise work runs over blocks that stay in a CPU's cache; an accelerator wants few, large kernels.
_BLOCK_ELEMENTS = {"cpu": 2**21}
_BLOCK_ELEMENTS_ELSEWHERE = 2**25

# Beyond exp(80) the student's mass outside the stored ids is zero to float32: the ghost's pull is capped there.
_LARGEST_LOG_RATIO = 80.0


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One softmax of the loss: Σ over positions of T²·(Σw·logsumexp(x/T) - Σ w_i x_i/T), and the ghost's part."""

    temperature: float
    offsets: torch.Tensor  # int64 [P+1], on the CPU: blocks are cut by it
    rows: torch.Tensor  # int64 [E]: position of each entry
    ids: torch.Tensor  # int64 [E]
    weights: torch.Tensor  # [E]
    totals: torch.Tensor  # [P]: Σw, ghost included
    ghost: torch.Tensor | None  # [P]: mass outside the stored ids

    def part(self, begin: int, end: int) -> "LossTerm":
        low, high = int(self.offsets[begin]), int(self.offsets[end])
        ghost = None if self.ghost is None else self.ghost[begin:end]
        return LossTerm(
            self.temperature,
            self.offsets[begin : end + 1] - low,
            self.rows[low:high] - begin,
            self.ids[low:high],
            self.weights[low:high],
            self.totals[begin:end],
            ghost,
        )


@dataclass(frozen=True, slots=True)
class LossPlan:
    """What is to be computed: which positions have a target, and the terms of their loss."""

    positions: torch.Tensor  # int64 [P]
    terms: tuple[LossTerm, ...]

    @property
    def n_positions(self) -> int:
        return self.positions.numel()

    def part(self, begin: int, end: int) -> "LossPlan":
        return LossPlan(self.positions[begin:end], tuple(term.part(begin, end) for term in self.terms))


def plan_loss(
    targets: SparseTargets,
    next_ids_N: torch.Tensor | None,
    vocab_size: int,
    cross_entropy_weight: float,
    temperature: float,
    n_positions: int,
) -> LossPlan:
    """What the loss of these targets consists of.

    Raises ValueError for shapes and weights that do not fit, MismatchError for ids outside the vocabulary.
    """
    _check(targets, next_ids_N, cross_entropy_weight, temperature, n_positions)
    counts = targets.offsets.diff()
    positions_P = counts.nonzero().squeeze(1)
    counts_P = counts[positions_P]
    next_ids_P = next_ids_N[positions_P] if next_ids_N is not None and cross_entropy_weight > 0 else None
    _check_vocabulary(targets.ids, next_ids_P, vocab_size)

    terms = []
    share = 1.0 - cross_entropy_weight
    if share > 0:
        ghost_P = None if targets.ghost is None else targets.ghost[positions_P] * share
        terms.append(_term(temperature, counts_P, targets.ids, targets.probs * share, ghost_P))
    if next_ids_P is not None:
        ones = torch.ones_like(counts_P)
        labels = torch.full(next_ids_P.shape, cross_entropy_weight, dtype=targets.probs.dtype, device=counts.device)
        terms.append(_term(1.0, ones, next_ids_P, labels, None))
    if len(terms) == 2 and temperature == 1.0 and targets.ghost is None:
        terms = [_joined(*terms)]
    return LossPlan(positions_P, tuple(terms))


def _term(
    temperature: float,
    counts_P: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    ghost_P: torch.Tensor | None,
) -> LossTerm:
    offsets = torch.cat([counts_P.new_zeros(1), counts_P.cumsum(0)]).cpu()
    rows = torch.repeat_interleave(torch.arange(len(counts_P), device=ids.device), counts_P)
    total_P = weights.new_zeros(len(counts_P)).index_add_(0, rows, weights)
    if ghost_P is not None:
        total_P = total_P + ghost_P
    return LossTerm(temperature, offsets, rows, ids, weights, total_P, ghost_P)


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
        raise ValueError(f"targets speak of {targets.n_positions} positions, the student of {n_positions}")
    if not 0 <= cross_entropy_weight <= 1:
        raise ValueError(f"cross_entropy_weight must be in [0, 1], found {cross_entropy_weight}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, found {temperature}")
    if cross_entropy_weight > 0 and next_ids_N is None:
        raise ValueError("cross_entropy_weight needs next_ids_N, the real next token of each position")
    if next_ids_N is not None and next_ids_N.shape != (n_positions,):
        raise ValueError(f"next_ids_N must have the shape ({n_positions},), found {tuple(next_ids_N.shape)}")


def _check_vocabulary(ids: torch.Tensor, next_ids_P: torch.Tensor | None, vocab_size: int) -> None:
    for name, found in (("target", ids), ("next token", next_ids_P)):
        if found is None or found.numel() == 0:
            continue
        low, high = (int(bound) for bound in found.aminmax())
        if low < 0 or high >= vocab_size:
            raise MismatchError(
                f"{name} ids run from {low} to {high}, the student's output layer has ids 0 to {vocab_size - 1}: "
                "the student needs the vocabulary of the recipe's tokenizer"
            )


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """What softmax and sums are computed in, for logits of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def divergence(
    logits_PV: torch.Tensor, plan: LossPlan, exact: torch.dtype, grad_PV: torch.Tensor | None
) -> torch.Tensor:
    """Sum of the loss; its gradient goes to `grad_PV`, which may be the logits' own memory."""
    P, V = logits_PV.shape
    limit = _BLOCK_ELEMENTS.get(logits_PV.device.type, _BLOCK_ELEMENTS_ELSEWHERE)
    rows = min(max(limit // V, 1), max(P, 1))
    logits, soft, summed = (
        torch.empty((rows if needed else 0, V), dtype=exact, device=logits_PV.device)
        for needed in (True, True, len(plan.terms) > 1)
    )
    total = torch.zeros((), dtype=exact, device=logits_PV.device)
    for begin in range(0, P, rows):
        end = min(begin + rows, P)
        logits_SV, soft_SV = logits[: end - begin], soft[: end - begin]
        for number, term in enumerate(plan.terms):
            logits_SV.copy_(logits_PV[begin:end])
            total += _term_block(logits_SV, soft_SV, term.part(begin, end), grad_PV is not None)
            if number == 0 and len(plan.terms) > 1:
                summed[: end - begin].copy_(soft_SV)
            elif number > 0:
                soft_SV.add_(summed[: end - begin])
        if grad_PV is not None:
            grad_PV[begin:end].copy_(soft_SV)
    return total


def _term_block(logits_SV: torch.Tensor, soft_SV: torch.Tensor, term: LossTerm, wants_grad: bool) -> torch.Tensor:
    """Sum of one term's loss over a block; overwrites both arguments, `soft_SV` with the gradient if it is wanted.

    logsumexp is max(x) - log max(softmax): the largest probability is at least 1/V, so nothing is lost, and softmax is
    the one pass that torch fuses on every device.
    """
    T = term.temperature
    if T != 1.0:
        logits_SV.div_(T)
    weights = term.weights.to(logits_SV.dtype)
    total_S = term.totals.to(logits_SV.dtype)
    entries = term.rows * logits_SV.shape[1] + term.ids
    logits_E = logits_SV.view(-1)[entries]
    top_S = logits_SV.amax(-1)
    torch.softmax(logits_SV, -1, out=soft_SV)
    logsumexp_S = top_S - soft_SV.amax(-1).log()
    loss = (total_S * logsumexp_S).sum() - (weights * logits_E).sum()
    scale_S, pull_E = total_S, weights
    if term.ghost is not None:
        ghost_S = term.ghost.to(logits_SV.dtype)
        log_ratio_S = _log_ratio_outside(logits_SV, entries, logsumexp_S)
        loss = loss + (ghost_S * (log_ratio_S - logsumexp_S)).sum()
        outside_S = ghost_S * log_ratio_S.exp()
        scale_S = total_S - outside_S
        pull_E = weights - outside_S[term.rows] * soft_SV.view(-1)[entries]
    if wants_grad:
        soft_SV.mul_((scale_S * T).unsqueeze(1))
        soft_SV.view(-1).index_add_(0, entries, pull_E * -T)
    return loss * T**2


def _log_ratio_outside(logits_SV: torch.Tensor, entries: torch.Tensor, logsumexp_S: torch.Tensor) -> torch.Tensor:
    """logsumexp of all logits minus logsumexp of those outside the stored ids, capped; destroys `logits_SV`."""
    logits_SV.view(-1)[entries] = -torch.inf
    return (logsumexp_S - logits_SV.logsumexp(-1)).clamp(max=_LARGEST_LOG_RATIO)
