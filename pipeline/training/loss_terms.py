"""Computes the loss on sparse targets block by block, with its gradient in the logits.

A term is one softmax: Σ over positions of T²·(Σw·logsumexp(x/T) - Σ w_i x_i/T), with gradient T·(Σw·softmax(x/T) - w)
in x. For the divergence, w are the target's probabilities; for cross-entropy, the real next token is the only entry. At
temperature 1 both share a softmax.

Ghost bucket: mass r = 1 - Σp̂ stands for all ids outside the stored set K together. The loss gains
r·(logsumexp(x) - logsumexp(x outside K)), so the gradient is q - p̂ inside K and q·(1 - r/m) outside, where q is the
softmax and m the student's mass outside K.

Shapes: N positions; P of them with a target; S rows of a block; V vocabulary; E stored entries.
"""

from dataclasses import dataclass

import torch

# Blocks for element-wise work: small enough for a CPU's cache; large on accelerators, for few kernel launches.
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
    """The positions that have a target, and the terms of their loss."""

    positions: torch.Tensor  # int64 [P]
    terms: tuple[LossTerm, ...]

    @property
    def n_positions(self) -> int:
        return self.positions.numel()

    def part(self, begin: int, end: int) -> "LossPlan":
        return LossPlan(self.positions[begin:end], tuple(term.part(begin, end) for term in self.terms))


def make_term(
    temperature: float,
    counts_P: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    ghost_P: torch.Tensor | None,
) -> LossTerm:
    """A term of `counts_P[p]` entries at position p, with their weights, and the ghost's mass if there is one."""
    offsets = torch.cat([counts_P.new_zeros(1), counts_P.cumsum(0)]).cpu()
    rows = torch.repeat_interleave(torch.arange(len(counts_P), device=ids.device), counts_P)
    total_P = weights.new_zeros(len(counts_P)).index_add_(0, rows, weights)
    if ghost_P is not None:
        total_P = total_P + ghost_P
    return LossTerm(temperature, offsets, rows, ids, weights, total_P, ghost_P)


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of softmax and sums for logits of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def divergence(
    logits_PV: torch.Tensor, plan: LossPlan, exact: torch.dtype, grad_PV: torch.Tensor | None
) -> torch.Tensor:
    """Sum of the loss; writes its gradient to `grad_PV`, which may share memory with the logits."""
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
    """Sum of one term's loss over a block; overwrites both arguments, `soft_SV` with the gradient if `wants_grad`.

    logsumexp = max(x) - log max(softmax) is precise, because the largest probability is at least 1/V, and fast, because
    torch fuses softmax on every device.
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
