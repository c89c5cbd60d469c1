"""Divergence of a student from sparse targets, computed in chunks: the logits of a whole batch never exist.

For one position with target p̂ and student logits x the loss is Σp̂·logsumexp(x) - Σ p̂_i x_i, which is the cross-entropy
of the student under p̂, and its gradient in x is Σp̂·softmax(x) - p̂. It is bounded below whatever Σp̂ is. At temperature
T the logits are x/T and the loss carries the factor T² (Hinton, Vinyals, Dean 2015), so its gradient carries T.

Shapes: N positions; P of them with a target; C of these in one chunk; V vocabulary; D hidden size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from logitlake.pipeline.reading.batches import SparseTargets
from logitlake.pipeline.training.loss_plan import DEFAULT_LOSS, plan_loss
from logitlake.pipeline.training.loss_terms import LossPlan, divergence, exact_dtype

DEFAULT_CHUNK = 1024


@torch.compiler.disable
def sparse_divergence(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets: SparseTargets,
    next_ids_N: torch.Tensor | None = None,
    *,
    cross_entropy_weight: float = 0.0,
    temperature: float = 1.0,
    loss: str = DEFAULT_LOSS,
    chunk: int = DEFAULT_CHUNK,
    divisor: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean divergence, in nats, of a student whose logits are hidden_ND · weight_VDᵀ.

    The forward pass computes the gradient, for at most `chunk` positions at once, and only for positions that have a
    target; not with gradients off, and not for a frozen weight. Matrix products run in the autocast dtype if autocast
    is on; softmax, loss and the sum of the weight's gradient are float32 (float64 for float64 input).

    `next_ids_N` int64 [N] is the real next token of each position (any id where there is no target), needed for
    `cross_entropy_weight` w: (1-w)·loss + w·cross-entropy. `loss` is a name in LOSSES. The sum is divided by `divisor`,
    by default the number of targets; with gradient accumulation or several ranks, pass the number of targets in the
    whole step. Raises MismatchError for ids outside the vocabulary, ValueError for wrong shapes.
    """
    plan = plan_loss(
        targets, next_ids_N, weight_VD.shape[0], cross_entropy_weight, temperature, hidden_ND.shape[0], loss
    )
    hidden_PD = hidden_ND.index_select(0, plan.positions)
    grad_on = torch.is_grad_enabled()
    wants = (grad_on and hidden_PD.requires_grad, grad_on and weight_VD.requires_grad)
    total = _FromHidden.apply(hidden_PD, weight_VD, plan, chunk, _compute_dtype(hidden_ND), wants)
    return total / _divisor(divisor, plan)


@torch.compiler.disable
def sparse_divergence_of_logits(
    logits_NV: torch.Tensor,
    targets: SparseTargets,
    next_ids_N: torch.Tensor | None = None,
    *,
    cross_entropy_weight: float = 0.0,
    temperature: float = 1.0,
    loss: str = DEFAULT_LOSS,
    divisor: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of `sparse_divergence` from logits. Arguments as there."""
    plan = plan_loss(
        targets, next_ids_N, logits_NV.shape[1], cross_entropy_weight, temperature, logits_NV.shape[0], loss
    )
    logits_PV = logits_NV.index_select(0, plan.positions)
    wants = torch.is_grad_enabled() and logits_PV.requires_grad
    return _FromLogits.apply(logits_PV, plan, wants) / _divisor(divisor, plan)


@torch.compiler.disable
def sparse_divergence_through(
    hidden_ND: torch.Tensor,
    output_layer: Callable[[torch.Tensor], torch.Tensor],
    vocab_size: int,
    targets: SparseTargets,
    next_ids_N: torch.Tensor | None = None,
    *,
    cross_entropy_weight: float = 0.0,
    temperature: float = 1.0,
    loss: str = DEFAULT_LOSS,
    chunk: int = DEFAULT_CHUNK,
    divisor: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of `sparse_divergence` through any output layer [P, D] → [P, V]: bias, adapter, soft cap, scale.

    Each chunk is computed twice, for the loss and for the gradient, so that no logits are stored between the two.
    """
    plan = plan_loss(targets, next_ids_N, vocab_size, cross_entropy_weight, temperature, hidden_ND.shape[0], loss)
    hidden_PD = hidden_ND.index_select(0, plan.positions)

    def chunk_sum(hidden_CD: torch.Tensor, part: LossPlan) -> torch.Tensor:
        logits_CV = output_layer(hidden_CD)
        return _FromLogits.apply(logits_CV, part, torch.is_grad_enabled() and logits_CV.requires_grad)

    # A zero in the graph. `hidden_PD.sum() * 0` would be NaN if the sum overflows in float16. Without targets it passes
    # through the output layer, whose parameters need a gradient: the other ranks wait for it.
    total = hidden_PD[:0].sum() if plan.n_positions else output_layer(hidden_ND[:1])[:0].sum()
    for begin in range(0, plan.n_positions, chunk):
        part = plan.part(begin, min(begin + chunk, plan.n_positions))
        hidden_CD = hidden_PD[begin : begin + chunk]
        if torch.is_grad_enabled():
            total = total + checkpoint(chunk_sum, hidden_CD, part, use_reentrant=False)
        else:
            total = total + chunk_sum(hidden_CD, part)
    return total / _divisor(divisor, plan)


def _divisor(divisor: float | torch.Tensor | None, plan: LossPlan) -> float | torch.Tensor:
    """The divisor, with 1 in place of 0: a step without targets has loss 0. It may be a fraction of a target."""
    if divisor is None:
        return max(plan.n_positions, 1)
    return torch.where(divisor > 0, divisor, 1) if isinstance(divisor, torch.Tensor) else divisor or 1


def _compute_dtype(hidden: torch.Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _FromHidden(torch.autograd.Function):
    """Sum of the loss over P positions, with its gradients in hidden states and output layer."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_PD: torch.Tensor,
        weight_VD: torch.Tensor,
        plan: LossPlan,
        chunk: int,
        dtype: torch.dtype,
        wants: tuple[bool, bool],
    ) -> torch.Tensor:
        exact = exact_dtype(dtype)
        P, V = hidden_PD.shape[0], weight_VD.shape[0]
        total = torch.zeros((), dtype=exact, device=hidden_PD.device)
        grad_hidden_PD = torch.empty_like(hidden_PD, dtype=exact) if wants[0] else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=exact) if wants[1] and P == 0 else None
        with torch.autocast(hidden_PD.device.type, enabled=False):
            small_VD = weight_VD.to(dtype)
            small_PD = hidden_PD.to(dtype)
            logits = torch.empty((min(chunk, P), V), dtype=dtype, device=hidden_PD.device)
            for begin in range(0, P, chunk):
                end = min(begin + chunk, P)
                logits_CV, hidden_CD = logits[: end - begin], small_PD[begin:end]
                torch.mm(hidden_CD, small_VD.t(), out=logits_CV)
                total += divergence(logits_CV, plan.part(begin, end), exact, logits_CV if any(wants) else None)
                if grad_hidden_PD is not None:
                    grad_hidden_PD[begin:end] = logits_CV @ small_VD
                if wants[1]:
                    product_VD = logits_CV.t() @ hidden_CD
                    # Start from the first chunk's product: allocating zeros of this size takes time.
                    grad_weight_VD = product_VD.to(exact) if grad_weight_VD is None else grad_weight_VD.add_(product_VD)
        ctx.save_for_backward(grad_hidden_PD, grad_weight_VD)
        ctx.dtypes = hidden_PD.dtype, weight_VD.dtype
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads = (
            None if grad is None else (grad * grad_output).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*grads, None, None, None, None)


class _FromLogits(torch.autograd.Function):
    """Sum of the loss over P positions, from their logits."""

    @staticmethod
    def forward(ctx: Any, logits_PV: torch.Tensor, plan: LossPlan, wants_grad: bool) -> torch.Tensor:
        grad_PV = torch.empty_like(logits_PV) if wants_grad else None
        total = divergence(logits_PV, plan, exact_dtype(logits_PV.dtype), grad_PV)
        ctx.save_for_backward(grad_PV)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (grad_PV,) = ctx.saved_tensors
        return (grad_PV * grad_output).to(grad_PV.dtype), None, None
