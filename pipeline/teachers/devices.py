"""Resolves the setting `device` to a torch device, and tells whether it computes in bfloat16."""

import numpy as np
import torch
from numpy.typing import NDArray

from logitlake.storage.errors import SettingsError

_IN_ORDER = ("cuda", "npu", "mps", "xpu")


def resolve_device(device: str) -> torch.device:
    """The named device; for `auto` the first available accelerator, else the CPU.

    Raises SettingsError for an accelerator that torch does not see.
    """
    if device == "auto":
        return torch.device(next((name for name in _IN_ORDER if _is_available(name)), "cpu"))
    kind = device.partition(":")[0]
    if kind != "cpu" and not _is_available(kind):
        accelerators = ", ".join(name for name in _IN_ORDER if _is_available(name)) or "none"
        raise SettingsError(
            f"teacher.device {device}: torch {torch.__version__} sees no such device (accelerators: {accelerators}); "
            "install the torch build and the driver for it, or set teacher.device to auto or cpu"
        )
    return torch.device(device)


def device_has_bfloat16(device: torch.device) -> bool:
    """Whether an accelerator multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type in ("mps", "npu", "xpu"):
        module = getattr(torch, device.type)
        check = getattr(module, "is_bf16_supported", None)
        return bool(check()) if check else True
    return False


def to_device(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """The array as a tensor on the device.

    From memory that the operating system may move, a GPU's host waits for all work before the copy; hence the detour.
    """
    tensor: torch.Tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _is_available(kind: str) -> bool:
    if kind == "mps":
        return bool(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)
    return module is not None and bool(module.is_available())
