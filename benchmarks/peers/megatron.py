"""Megatron-LM's offline distillation (NVIDIA/Megatron-LM pull request 5019, logits_saver.py): k = 128.

Log-probabilities as float16; ids as 16 low bits in uint16 and the 17th in a bool; every tensor compressed by zstd.
Shapes: P positions, k ids each.
"""

import numpy as np
import zstandard
from numpy.typing import NDArray

from benchmarks.peers.stored import Stored


def megatron(ids_Pk: NDArray[np.int64], logprobs_Pk: NDArray[np.float32]) -> Stored:
    """Bytes after zstd at its default level, all positions in one go."""
    half_Pk = logprobs_Pk.astype(np.float16)
    tensors = (half_Pk, (ids_Pk & 0xFFFF).astype(np.uint16), (ids_Pk >> 16).astype(np.bool_))
    compress = zstandard.ZstdCompressor().compress
    n_bytes = sum(len(compress(np.ascontiguousarray(tensor).tobytes())) for tensor in tensors)
    return Stored(n_bytes, np.exp(half_Pk.astype(np.float64)))


def megatron_raw_bytes(k: int) -> float:
    """Bytes of a position before zstd, the 17th bit counted as one."""
    return k * (16 + 17) / 8
