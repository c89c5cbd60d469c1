"""Tells whether two models compute the same: their logits on the same made-up sequences.

Shapes: P positions, V ids.
"""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from accelerate.utils.memory import clear_device_cache

from logitlake.pipeline.model_files.positions import positions_of
from logitlake.pipeline.saving.all_threads import all_threads
from logitlake.pipeline.saving.full_float32 import full_float32

log = logging.getLogger(__name__)

# Mean KL in nats above which two models in float32 are not the same, if both compute in the same way on one device:
# rounding alone gives less than 1e-8.
SAME = 1e-7
# The same for two devices, or for an adapter before and after it is merged: there sums have another order, and a device
# may round the factors of a product (TF32 gives 8e-6).
NEAR = 1e-5
# Mean KL in nats above which rounding the weights to 16 bits changed a model too much.
ROUNDED = 0.02
_SHORT = 48
_LONGEST = 4096
_COMPARED = 64


def probe_sequences(config: Any, *, vocabulary: int, window: int) -> list[torch.Tensor]:
    """Two sequences of random ids: a short one, and one of a window but at most 4096; the same for the same arguments.

    Ids that the config names, such as those of padding or of images, are left out where there are others.
    """
    content = config.to_dict()
    window = min(window, positions_of(content) or window)
    named = set(_named_ids(content))
    ids = torch.tensor([i for i in range(vocabulary) if i not in named] or [0])
    generator = torch.Generator().manual_seed(0)
    lengths = {min(_SHORT, window), min(window, _LONGEST)}
    return [ids[torch.randint(len(ids), (1, length), generator=generator)] for length in sorted(lengths)]


@torch.no_grad()
def probe_logits(model: Any, sequences: Sequence[torch.Tensor], *, inner: Any = None) -> torch.Tensor:
    """Logits [P, V] of the last positions of each sequence, in float32 on the CPU, in evaluation mode, without TF32.

    `inner` is the transformers model if `model` is a wrapper around it.
    """
    inner = inner or model
    accepted = inspect.signature(type(inner).forward).parameters
    options = {"logits_to_keep": _COMPARED} if "logits_to_keep" in accepted else {}
    was_training = model.training
    model.eval()
    try:
        with full_float32():
            logits = [
                model(input_ids=ids.to(inner.device), use_cache=False, **options).logits[0, -_COMPARED:].float().cpu()
                for ids in sequences
            ]
    finally:
        model.train(was_training)
    return torch.cat(logits)


class Probed(NamedTuple):
    """Logits [P, V], and whether they were computed on the device that was asked for."""

    logits: torch.Tensor
    on_device: bool


def probe_on(device: torch.device, model: Any, sequences: Sequence[torch.Tensor], *, inner: Any = None) -> Probed:
    """As `probe_logits` on a device; on the CPU where that has no room, and then of the first sequence alone.

    Moves the model. On the CPU with all processors: one rank does this while the others wait.
    """
    if device.type == "cpu":
        return Probed(_on_cpu(model, sequences, inner), True)
    try:
        return Probed(probe_logits(model.to(device), sequences, inner=inner), True)
    except torch.OutOfMemoryError:
        pass  # On the CPU below: while the error is handled, its frames hold tensors on the device.
    log.info("%s has no room for a second model: the saved student is compared on the CPU", device)
    found = _on_cpu(model, sequences[:1], inner)
    clear_device_cache()
    return Probed(found, False)


def _on_cpu(model: Any, sequences: Sequence[torch.Tensor], inner: Any) -> torch.Tensor:
    with all_threads():
        return probe_logits(model.to("cpu"), sequences, inner=inner)


def mean_divergence(expected_PV: torch.Tensor, found_PV: torch.Tensor) -> float:
    """Mean KL from one model to another, in nats; infinite if only one of the two has NaN at a position.

    A position where both have NaN counts as equal: a training may have diverged.
    """
    if expected_PV.shape != found_PV.shape:
        return float("inf")
    p_PV, q_PV = (logits.double().log_softmax(-1) for logits in (expected_PV, found_PV))
    lost_P, lost_there_P = p_PV.isnan().any(-1), q_PV.isnan().any(-1)
    if not torch.equal(lost_P, lost_there_P):
        return float("inf")
    kl_PV = torch.where(p_PV > -torch.inf, p_PV.exp() * (p_PV - q_PV), 0.0)
    return float(kl_PV.sum(-1)[~lost_P].mean()) if bool((~lost_P).any()) else 0.0


def _named_ids(content: Mapping[str, Any]) -> Iterator[int]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _named_ids(value)
        elif str(name).endswith(("_token_id", "_token_index")):
            yield from (item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int))
