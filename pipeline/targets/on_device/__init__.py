"""Drawing on an accelerator: the sparsifiers as tensor code that stays where the logits are.

The same targets as those of the NumPy code in `sparsifiers/`, which draws on a CPU: there it is faster, since it works
on the few blocks that matter and on nothing else, while code that may not look at its own results must reserve room for
the most that there can be. Nothing here makes the host wait: no count is read back, every shape follows from the
settings and the vocabulary alone. Numbers may differ from NumPy's by the order in which float64 values are added.

A sparsifier names its version for devices in `on_device`, as `module:function`. One without, such as a plug-in's, draws
on the host.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from logitlake.pipeline.targets.on_device.padded_targets import PaddedTargets
    from logitlake.pipeline.targets.sparsifiers.scan import Scan

# Devices that compute in float64, and where waiting for the host costs more than unused room does.
DEVICE_TYPES = frozenset({"cuda"})
# Room for more entries than this in every position would take too much of the device's memory and of the copy.
_MOST_ENTRIES = 2048


class DeviceDraw(Protocol):
    """Draws the targets of a scan on the device where it is."""

    def __call__(self, sparsifier: Any, scan: "Scan", uniforms_PS: "torch.Tensor") -> "PaddedTargets":
        """What `sparsifier` draws from the blocks of this scan with these uniforms (float64)."""


class DrawsOnDevice(Protocol):
    """What a sparsifier has that names its version for devices."""

    @property
    def on_device(self) -> str:
        """The DeviceDraw as `module:function`: text, so that settings load no torch."""

    @property
    def most_entries(self) -> int:
        """Entries of a position at most: room is reserved for so many."""


def device_draw(sparsifier: Any, device_type: str) -> DeviceDraw | None:
    """The sparsifier's version for such a device. None if it draws on the host.

    That is so on a CPU, without a version for devices, and where that would need room for too many entries.
    """
    if device_type not in DEVICE_TYPES or not _is_its_own(sparsifier):
        return None
    described: DrawsOnDevice = sparsifier
    if described.most_entries > _MOST_ENTRIES:
        return None
    module, _, function = described.on_device.partition(":")
    draw: DeviceDraw = getattr(import_module(module), function)
    return draw


def _is_its_own(sparsifier: Any) -> bool:
    """Whether the class that draws also names its version for devices: a subclass that draws otherwise inherits it."""
    draws = next((cls for cls in type(sparsifier).__mro__ if "__call__" in vars(cls)), None)
    return draws is not None and "on_device" in vars(draws)
