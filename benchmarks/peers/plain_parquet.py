"""The file that a user would write: one list of int32 ids and one of float32 log-probabilities per position.

pyarrow's defaults, once as they are (snappy) and once with zstd. Shapes: P positions, k ids each.
"""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.peers.stored import Stored


def plain_parquet(ids_Pk: NDArray[np.int64], logprobs_Pk: NDArray[np.float32], compression: str) -> Stored:
    """Bytes of the whole file."""
    n_positions, k = ids_Pk.shape
    offsets = pa.array(np.arange(n_positions + 1, dtype=np.int32) * k)
    table = pa.table(
        {
            "ids": pa.ListArray.from_arrays(offsets, pa.array(ids_Pk.ravel().astype(np.int32))),
            "logprobs": pa.ListArray.from_arrays(offsets, pa.array(logprobs_Pk.ravel().astype(np.float32))),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=compression)
    return Stored(buffer.tell(), np.exp(logprobs_Pk.astype(np.float64)))
