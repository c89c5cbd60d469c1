"""Resolves the dtype `auto`, without torch where possible, so that planning is fast."""

import sys
from pathlib import Path

_ACCELERATOR_NODES = ("nvidiactl", "kfd", "davinci_manager", "dri", "dxg")
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def resolve_dtype(dtype: str, device: str) -> str:
    """`dtype` itself, or for `auto` bfloat16 where the device computes in it, else float32."""
    if dtype != "auto":
        return dtype
    if device == "cpu" or (device == "auto" and not _accelerator_in_sight()):
        return "bfloat16" if _cpu_has_bfloat16() else "float32"
    # Imported here: only an accelerator needs torch and its driver.
    from logitlake.pipeline.teachers.devices import device_has_bfloat16, resolve_device

    torch_device = resolve_device(device)
    has_bfloat16 = _cpu_has_bfloat16() if torch_device.type == "cpu" else device_has_bfloat16(torch_device)
    return "bfloat16" if has_bfloat16 else "float32"


def _accelerator_in_sight() -> bool:
    if sys.platform != "linux":
        return True
    return any((Path("/dev") / node).exists() for node in _ACCELERATOR_NODES)


def _cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware; emulation is slower than float32."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return False
    flags = {flag for line in text.splitlines() if line.startswith(("flags", "Features")) for flag in line.split()}
    return bool(flags & _CPU_FLAGS)
