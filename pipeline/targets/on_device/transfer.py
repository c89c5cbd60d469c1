"""One copy of finished results from a device to the host, which the host waits for only where it needs them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Layout = list[tuple[tuple[int, ...], np.dtype[Any]]]


class Transfer:
    """A copy under way. It is ordered after all that was asked of the device so far, and before what is asked later."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        """Begin to copy tensors of one device. With a CPU there is nothing to copy."""
        packed, self._layout = pack(tensors)
        self._copied: torch.cuda.Event | None = None
        if packed.device.type == "cpu":
            self._bytes = packed
        else:
            self._bytes = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
            self._bytes.copy_(packed, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(packed.device))

    def wait(self) -> list[NDArray[Any]]:
        """The tensors as arrays, in their order. May be called in another thread than the one that began the copy."""
        if self._copied is not None:
            self._copied.synchronize()
        return unpack(self._bytes.numpy(), self._layout)


def pack(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, Layout]:
    """The bytes of all tensors in a row, and what they are."""
    layout: Layout = [(tuple(tensor.shape), _DTYPES[tensor.dtype]) for tensor in tensors]
    return torch.cat([tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]), layout


def unpack(content: NDArray[np.uint8], layout: Layout) -> list[NDArray[Any]]:
    """The arrays whose bytes `pack` has put in a row."""
    arrays, begin = [], 0
    for shape, dtype in layout:
        end = begin + math.prod(shape) * dtype.itemsize
        arrays.append(content[begin:end].view(dtype).reshape(shape))
        begin = end
    return arrays


_DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float64: np.dtype(np.float64),
    torch.int32: np.dtype(np.int32),
    torch.bool: np.dtype(np.bool_),
}
