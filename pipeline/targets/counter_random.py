"""Random numbers that are a function of what they are for: (seed, document, position, stream), and of nothing else.

No state is carried from one draw to the next, so batching, order, device and the number of processes never change a
draw. Shapes: P positions, S streams.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Finaliser of SplitMix64 (Steele, Lea, Flood 2014; constants of Stafford's variant 13).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_STREAM_BITS = 16
MAX_STREAMS = 1 << _STREAM_BITS


def document_keys(seed: int, doc_ids: Sequence[str]) -> NDArray[np.uint64]:
    """One 128-bit key per document, as `uint64[N, 2]`."""
    keys = b"".join(hashlib.blake2b(f"{seed}:{doc_id}".encode(), digest_size=16).digest() for doc_id in doc_ids)
    return np.frombuffer(keys, dtype="<u8").reshape(-1, 2).astype(np.uint64)


def uniforms(keys_P2: NDArray[np.uint64], positions_P: NDArray[np.integer], streams: int) -> NDArray[np.float64]:
    """Independent uniforms in [0, 1) as `float64[P, S]`: row p belongs to one document key and one absolute position.

    Two rounds of SplitMix64's finaliser over (position, stream), each with its own half of the document's key.
    Raises ValueError for more than MAX_STREAMS streams.
    """
    if not 0 < streams <= MAX_STREAMS:
        raise ValueError(f"streams: expected 1 to {MAX_STREAMS}, found {streams}")
    counters_P1 = positions_P.astype(np.uint64)[:, None] << np.uint64(_STREAM_BITS)
    counters_PS = counters_P1 | np.arange(streams, dtype=np.uint64)[None, :]
    mixed_PS = _mix(counters_PS * _GOLDEN + keys_P2[:, :1])
    mixed_PS = _mix(mixed_PS ^ keys_P2[:, 1:])
    return (mixed_PS >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))
