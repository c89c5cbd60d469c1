"""Distillation from full distributions: the reference that every sparse target stands in for.

The loss is the cross-entropy of the student under p, mean over positions, and its gradient in the logits is
(softmax(x) - p) / N. Made chunk by chunk, so that no batch of logits exists.

Shapes: N positions, C of them in one chunk, D hidden size of the student, V ids.
"""

from collections.abc import Callable
from typing import Any

import torch

_CHUNK = 256


def full_divergence(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    teacher_logits: Callable[[int, int], torch.Tensor],
    *,
    divisor: float | torch.Tensor,
) -> torch.Tensor:
    """Σ over positions of -Σ p log softmax(hidden · weightᵀ), over `divisor`.

    `teacher_logits(begin, end)` gives the teacher's logits [C, V] of some positions. Everything is float32.
    """
    return _Full.apply(hidden_ND, weight_VD, teacher_logits) / divisor


class _Full(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        teacher_logits: Callable[[int, int], torch.Tensor],
    ) -> torch.Tensor:
        grad_hidden_ND = torch.empty_like(hidden_ND, dtype=torch.float32)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32)
        own_ND, own_VD = hidden_ND.float(), weight_VD.float()
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for begin in range(0, len(hidden_ND), _CHUNK):
                end = min(begin + _CHUNK, len(hidden_ND))
                probs_CV = teacher_logits(begin, end).float().softmax(-1)
                logprobs_CV = (own_ND[begin:end] @ own_VD.t()).log_softmax(-1)
                total -= torch.dot(probs_CV.view(-1), logprobs_CV.view(-1))
                grad_CV = logprobs_CV.exp_().sub_(probs_CV)
                grad_hidden_ND[begin:end] = grad_CV @ own_VD
                grad_weight_VD += grad_CV.t() @ own_ND[begin:end]
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.dtypes = hidden_ND.dtype, weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, weight_VD = (
            (grad * grad_output).to(dtype) for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return hidden_ND, weight_VD, None
