"""The numbers of Arcee DistillKit's compressed logits: how the bytes of a position become k log-probabilities.

A position's bytes are, one after the other: `exact_k` floats; the coefficients of a curve through the other k - exact_k
values; and for each residual bin a scale and packed whole numbers. With delta encoding all values but the first are
differences. Written after DistillKit a61c2e7 (distillkit/compression); a test compares both.

Shapes: N positions, B bytes of each, k values, t = k - exact_k fitted ones.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from logitlake.pipeline.settings.base import Settings

FloatName = Literal["float16", "bfloat16", "float32", "float64"]
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


class ResidualBin(Settings):
    """Quantised residuals of some fitted values."""

    scale_dtype: FloatName
    element_bits: int = Field(ge=1, le=63)
    num_elements: int = Field(ge=1)

    @property
    def packed_bytes(self) -> int:
        return (self.num_elements * self.element_bits + 7) // 8


class LogprobCompressor(Settings):
    """DistillKit's section `logprob_compressor`, with its defaults."""

    d: int = Field(ge=1)
    k: int = Field(ge=1)
    exact_k: int = Field(ge=0)
    exact_dtype: FloatName = "float32"
    polynomial_terms: list[Literal["sqrt", "exp"] | int] | None = None
    term_dtype: FloatName = "float32"
    residual_bins: list[ResidualBin]
    delta_encoding: bool = True
    error_diffusion: bool = False
    normalize_t: bool = False

    @model_validator(mode="after")
    def _fits(self) -> "LogprobCompressor":
        if self.exact_k > self.k:
            raise ValueError(f"exact_k: expected at most k = {self.k}, found {self.exact_k}")
        binned = sum(part.num_elements for part in self.residual_bins)
        if binned > self.k - self.exact_k:
            raise ValueError(f"residual_bins: expected at most {self.k - self.exact_k} elements, found {binned}")
        return self

    @property
    def logprob_bytes(self) -> int:
        """Bytes of a position's log-probabilities."""
        n_terms = len(self.polynomial_terms or ())
        bins = sum(_BYTES[part.scale_dtype] + part.packed_bytes for part in self.residual_bins)
        return self.exact_k * _BYTES[self.exact_dtype] + n_terms * _BYTES[self.term_dtype] + bins

    @property
    def index_bits(self) -> int:
        """Bits of an id, as DistillKit computes them: in float32."""
        return int(np.ceil(np.log2(np.float32(self.d))))

    @property
    def index_bytes(self) -> int:
        """Bytes of a position's ids."""
        return (self.k * self.index_bits + 7) // 8


def decode_logprobs(bytes_NB: NDArray[np.uint8], compressor: LogprobCompressor) -> NDArray[np.float64]:
    """Log-probabilities [N, k] from `logprob_bytes` bytes of each position."""
    at = compressor.exact_k * _BYTES[compressor.exact_dtype]
    values = _floats(bytes_NB[:, :at], compressor.exact_dtype)
    n_fitted = compressor.k - compressor.exact_k
    fitted_Nt = np.zeros((len(bytes_NB), n_fitted))
    terms = compressor.polynomial_terms or []
    if terms:
        end = at + len(terms) * _BYTES[compressor.term_dtype]
        fitted_Nt += _floats(bytes_NB[:, at:end], compressor.term_dtype) @ _curves(terms, n_fitted, compressor)
        at = end
    first = 0
    for part in compressor.residual_bins:
        end = at + _BYTES[part.scale_dtype]
        scale_N1 = _floats(bytes_NB[:, at:end], part.scale_dtype)
        whole = unpacked(bytes_NB[:, end : end + part.packed_bytes], part.element_bits, part.num_elements)
        at = end + part.packed_bytes
        steps = 2.0 * whole - 1 if part.element_bits == 1 else whole - 2.0 ** (part.element_bits - 1)
        fitted_Nt[:, first : first + part.num_elements] += steps * scale_N1
        first += part.num_elements
    logprobs_Nk = np.concatenate([values, fitted_Nt], axis=1)
    return np.cumsum(logprobs_Nk, axis=1) if compressor.delta_encoding else logprobs_Nk


def unpacked(bytes_NB: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int64]:
    """Whole numbers [N, count] of `bits` bits each, the highest bit first."""
    stream_N = np.unpackbits(np.ascontiguousarray(bytes_NB), axis=1, count=count * bits)
    weights = np.left_shift(np.int64(1), np.arange(bits - 1, -1, -1))
    return stream_N.reshape(len(bytes_NB), count, bits).astype(np.int64) @ weights


def _floats(bytes_NB: NDArray[np.uint8], name: FloatName) -> NDArray[np.float64]:
    raw = np.ascontiguousarray(bytes_NB)
    if name == "bfloat16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return raw.view(np.dtype(name).newbyteorder("<")).astype(np.float64)


def _curves(terms: list[Literal["sqrt", "exp"] | int], count: int, compressor: LogprobCompressor) -> np.ndarray:
    """The terms [terms, t] at the points of the fitted values."""
    points = np.linspace(0, 1, count) if compressor.normalize_t else np.arange(count, dtype=np.float64)
    named = {"sqrt": np.sqrt, "exp": np.exp}
    return np.stack([points**term if isinstance(term, int) else named[term](points) for term in terms])
