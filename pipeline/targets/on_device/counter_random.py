"""The uniforms of `targets/counter_random.py`, computed on a device, bit for bit.

Shapes: P positions, S streams.
"""

import torch

_STREAM_BITS = 16


def uniforms(keys_P2: torch.Tensor, positions_P: torch.Tensor, streams: int) -> torch.Tensor:
    """Uniforms in [0, 1) as `float64[P, S]`; `keys_P2` holds the bits of the document keys, all int64."""
    streams_S = torch.arange(streams, device=positions_P.device)
    counters_PS = positions_P[:, None] << _STREAM_BITS | streams_S
    mixed_PS = _mix(counters_PS * _signed(0x9E3779B97F4A7C15) + keys_P2[:, :1])
    mixed_PS = _mix(mixed_PS ^ keys_P2[:, 1:])
    return _shifted(mixed_PS, 11).double() * 2.0**-53


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift to the right that fills with zeros, as for unsigned integers."""
    return x >> bits & (1 << 64 - bits) - 1


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant
