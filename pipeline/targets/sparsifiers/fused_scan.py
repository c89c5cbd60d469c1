"""The pass over the logits on a CPU as one loop, compiled by numba where that is installed (the extra `fast`).

torch writes and reads every number again in each of its operations; here a row is read twice and nothing is written but
its sums: a third of the time. Bits are read as integers: the largest integer is the largest logit, and integers have a
maximum that vectorises, which floats have not because of NaN.

Shapes: P positions, V ids, B blocks per row.
"""

from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.extending import intrinsic

from logitlake.pipeline.targets.sparsifiers.block_sums import BLOCK

# The bits of a number as an integer, and infinity so.
_BITS: dict[torch.dtype, tuple[torch.dtype, np.generic]] = {
    torch.bfloat16: (torch.int16, np.int16(0x7F80)),
    torch.float32: (torch.int32, np.int32(0x7F800000)),
}
_F = np.float32
# What is below 2^-125 is 0: further down the bits of a float32 have another meaning.
_LEAST_EXPONENT = _F(-125.0)
# 2^x on [-1/2, 1/2]: minimax coefficients, off by less than an ulp of float32.
_C6, _C5, _C4 = _F(1.535336188319500e-4), _F(1.339887440266574e-3), _F(9.618437357674640e-3)
_C3, _C2, _C1 = _F(5.550332471162809e-2), _F(2.402264791363012e-1), _F(6.931472028550421e-1)
# NaN and infinities keep their meaning; the order of a sum does not matter.
_FASTMATH = {"reassoc", "contract", "nsz"}


def fits(logits_PV: torch.Tensor) -> bool:
    """Whether `scan_rows` takes these logits."""
    return logits_PV.device.type == "cpu" and logits_PV.dtype in _BITS and logits_PV.is_contiguous()


def scan_rows(
    logits_PV: torch.Tensor, factor: float, sums_PB: torch.Tensor, products_P: torch.Tensor, shift_P: torch.Tensor
) -> None:
    """Fill block sums, Σ e · z and shifts (float32) of rows of logits; NaN for a row that is no distribution.

    z = factor · logit + shift, at most 0, and e = 2^z: see Scan.
    """
    integers, infinity = _BITS[logits_PV.dtype]
    arrays = (tensor.numpy() for tensor in (sums_PB, products_P, shift_P))
    _scan(logits_PV.view(integers).numpy(), infinity, _F(factor), *arrays)


@intrinsic
def _ordered(typingctx: Any, v: Any) -> Any:
    """Bits of a float as an integer that orders as the float does; its own inverse."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        sign = builder.ashr(args[0], ir.Constant(kind, kind.width - 1))
        return builder.xor(args[0], builder.and_(sign, ir.Constant(kind, 2 ** (kind.width - 1) - 1)))

    return v(v), generate


@intrinsic
def _magnitude(typingctx: Any, v: Any) -> Any:
    """Bits of a float without its sign."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.and_(args[0], ir.Constant(args[0].type, 2 ** (args[0].type.width - 1) - 1))

    return v(v), generate


@intrinsic
def _larger(typingctx: Any, a: Any, b: Any) -> Any:
    """The larger of two integers, in their own type."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed(">", *args), *args)

    return a(a, a), generate


@intrinsic
def _value(typingctx: Any, v: Any) -> Any:
    """The float32 of some bits: those of a bfloat16 are the upper half."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(32)
        bits = args[0]
        if bits.type.width < 32:
            bits = builder.shl(builder.zext(bits, word), ir.Constant(word, 32 - bits.type.width))
        return builder.bitcast(bits, ir.FloatType())

    return numba.float32(v), generate


@intrinsic
def _truncated(typingctx: Any, x: Any) -> Any:
    """A float32 as a 32-bit integer, rounded towards 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fptosi(args[0], ir.IntType(32))

    return numba.int32(numba.float32), generate


@intrinsic
def _times_power_of_two(typingctx: Any, x: Any, n: Any) -> Any:
    """x · 2^n by adding n to the exponent's bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(32)
        shifted = builder.shl(args[1], ir.Constant(word, 23))
        return builder.bitcast(builder.add(builder.bitcast(args[0], word), shifted), ir.FloatType())

    return numba.float32(numba.float32, numba.int32), generate


def _compiled(**options: Any) -> Any:
    """`numba.njit` that keeps the machine code on disk, where there is a folder for it."""

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            return numba.njit(**options)(function)

    return decorate


@numba.njit(inline="always")
def _exp2(z: Any) -> Any:
    n = _truncated(z - _F(0.5))
    f = z - _F(n)
    p = ((((((_C6 * f + _C5) * f + _C4) * f + _C3) * f + _C2) * f + _C1) * f) + _F(1.0)
    return _times_power_of_two(p, n)


@_compiled(fastmath=_FASTMATH, nogil=True)
def _scan(bits_PV: Any, infinity: Any, factor: Any, sums_PB: Any, products_P: Any, shift_P: Any) -> None:
    n_positions, vocabulary = bits_PV.shape
    for p in range(n_positions):
        bits_V = bits_PV[p]
        largest, magnitude = _ordered(bits_V[0]), _magnitude(bits_V[0])
        for i in range(vocabulary):
            largest = _larger(largest, _ordered(bits_V[i]))
            magnitude = _larger(magnitude, _magnitude(bits_V[i]))
        # NaN is beyond infinity; or the largest is an infinity.
        if magnitude > infinity or _magnitude(_ordered(largest)) == infinity:
            sums_PB[p], products_P[p], shift_P[p] = _F(np.nan), _F(0.0), _F(0.0)
            continue
        shift, products = -_value(_ordered(largest)) * factor, _F(0.0)
        for block in range(sums_PB.shape[1]):
            bits_K = bits_V[block * BLOCK : (block + 1) * BLOCK]
            total, product = _F(0.0), _F(0.0)
            for k in range(len(bits_K)):
                z = max(_value(bits_K[k]) * factor + shift, _LEAST_EXPONENT)
                e = _exp2(z) if z > _LEAST_EXPONENT else _F(0.0)
                total += e
                product += e * z
            sums_PB[p, block] = total
            products += product
        products_P[p], shift_P[p] = products, shift
