"""Replaces a model's `forward` by the cached loss, so that it works under DDP, FSDP, autocast and compile.

DDP and FSDP synchronise gradients and gather weights around the forward of the module that they wrap: a loss computed
outside of it would miss both. The model keeps its class and its parameters' names, and saves as an ordinary checkpoint.
"""

from dataclasses import dataclass
from typing import Any

import torch

from logitlake.pipeline.reading.batches import SparseTargets, TargetBatch
from logitlake.pipeline.training.loss_plan import DEFAULT_LOSS
from logitlake.pipeline.training.losses import DEFAULT_CHUNK, sparse_divergence, sparse_divergence_through
from logitlake.pipeline.training.output_layer import ModelParts, take_apart


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """Options of the loss, see losses.py. `temperature` is the recipe's."""

    loss: str = DEFAULT_LOSS
    cross_entropy_weight: float = 0.0
    temperature: float = 1.0
    chunk: int = DEFAULT_CHUNK


def batch_inputs(batch: TargetBatch) -> dict[str, torch.Tensor]:
    """A batch as keyword arguments of a forward that `attach_loss` made: tensors only."""
    inputs = {
        "input_ids": batch.input_ids,
        "next_ids": batch.next_ids,
        "target_offsets": batch.targets.offsets,
        "target_ids": batch.targets.ids,
        "target_probs": batch.targets.probs,
    }
    more = {"target_ghost": batch.targets.ghost, "position_ids": batch.position_ids}
    return inputs | {name: tensor for name, tensor in more.items() if tensor is not None}


def model_loss(
    parts: ModelParts, batch: TargetBatch, settings: LossSettings, *, divisor: float | torch.Tensor | None = None
) -> torch.Tensor:
    """Mean loss of a model on a batch; `divisor` as in losses.py."""
    return _loss(parts, batch.input_ids, batch.position_ids, batch.next_ids, batch.targets, settings, divisor)


def attach_loss(model: Any, settings: LossSettings) -> ModelParts:
    """Make `model(**batch_inputs(batch), divisor=…)` return the loss; `detach_loss` restores its forward."""
    parts = take_apart(model)

    def forward(
        input_ids: torch.Tensor,
        next_ids: torch.Tensor,
        target_offsets: torch.Tensor,
        target_ids: torch.Tensor,
        target_probs: torch.Tensor,
        target_ghost: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        divisor: float | torch.Tensor | None = None,
    ) -> torch.Tensor:
        targets = SparseTargets(offsets=target_offsets, ids=target_ids, probs=target_probs, ghost=target_ghost)
        return _loss(parts, input_ids, position_ids, next_ids, targets, settings, divisor)

    model.forward = forward
    return parts


def detach_loss(model: Any) -> None:
    """Undo `attach_loss`, and a trainer's wrapper around it."""
    model.__dict__.pop("forward", None)
    model.__dict__.pop("_original_forward", None)


def _loss(
    parts: ModelParts,
    input_ids_BT: torch.Tensor,
    position_ids_BT: torch.Tensor | None,
    next_ids_BT: torch.Tensor,
    targets: SparseTargets,
    settings: LossSettings,
    divisor: float | torch.Tensor | None,
) -> torch.Tensor:
    hidden_ND = parts.hidden(input_ids_BT, position_ids_BT).flatten(0, 1)
    next_ids_N = next_ids_BT.flatten()
    options: dict[str, Any] = {
        "loss": settings.loss,
        "cross_entropy_weight": settings.cross_entropy_weight,
        "temperature": settings.temperature,
        "chunk": settings.chunk,
        "divisor": divisor,
    }
    if parts.weight is not None:
        return sparse_divergence(hidden_ND, parts.weight, targets, next_ids_N, **options)
    return sparse_divergence_through(hidden_ND, parts.logits, parts.vocab_size, targets, next_ids_N, **options)
