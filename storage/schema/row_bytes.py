"""Hashes of the values and lists of rows that do not depend on how Arrow or Parquet lay them out.

All numbers are little-endian, as on every machine that DuckDB supports.
"""

import struct
from itertools import pairwise

import numpy as np
import pyarrow as pa
import xxhash

_UINT64 = 2**64 - 1


def list_hashes(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Number and XXH3 of the leaves of each row's list, uint64 [R, 2]; of lists of lists uint64 [R, 4], beginning with
    number and XXH3 of the lengths (int32) of the inner lists.

    Leaves keep their width: a null, which is damage where it is not -1 of an int32, must not change the hashes of other
    rows. Reads slices of the buffers: a few Python calls per row, none per token.
    """
    lists = column if isinstance(column, pa.Array) else one_chunk(column)
    bounds, values = _inside(lists)
    if not pa.types.is_list(values.type):
        return _hashed(bounds, _leaves(values))
    offsets, leaves = _inside(values)
    lengths = np.diff(offsets).astype("<i4")
    return np.concatenate([_hashed(bounds, lengths), _hashed(offsets[bounds], _leaves(leaves))], axis=1)


def rows_with_null_lists(lists: pa.ListArray, *, null_leaves: bool) -> np.ndarray:
    """For each row, bool [R], whether its list is null, or an inner list, or a leaf unless `null_leaves` are allowed.

    Costs next to nothing where no null is.
    """
    wrong = _nulls(lists)
    bounds, values = _inside(lists)
    if pa.types.is_list(values.type):
        wrong |= _any_within(bounds, _nulls(values))
        offsets, values = _inside(values)
        bounds = offsets[bounds]
    return wrong if null_leaves else wrong | _any_within(bounds, _nulls(values))


def hash_rows(numbers: np.ndarray) -> pa.Array:
    """XXH3 of each row of a uint64 matrix."""
    return pa.array([xxhash.xxh3_64_intdigest(row) for row in numbers.astype("<u8", copy=False)], pa.uint64())


def value_bytes(value: str | float | int) -> bytes:
    """UTF-8 of a text, 8 bytes of a number: a double, or a whole number in two's complement."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, float):
        return struct.pack("<d", value)
    return (value & _UINT64).to_bytes(8, "little")


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array, without a copy where it is one already."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _inside(lists: pa.ListArray) -> tuple[np.ndarray, pa.Array]:
    """Offsets from 0 and the values between the first and the last of them: those of a slice, not of the whole."""
    if not len(lists):
        return np.zeros(1, np.int32), lists.values.slice(0, 0)
    offsets = _numpy(lists.offsets)
    return offsets - offsets[0], lists.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))


def _nulls(values: pa.Array) -> np.ndarray:
    return _numpy(values.is_null()) if values.null_count else np.zeros(len(values), bool)


def _any_within(bounds: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Whether a flag is set between each two neighbouring bounds."""
    counts = np.concatenate([[0], np.cumsum(flags)]) if flags.any() else np.zeros(len(flags) + 1, np.int64)
    return np.asarray(np.diff(counts[bounds]) > 0)


def _hashed(bounds: np.ndarray, values: np.ndarray) -> np.ndarray:
    view = values.data
    hashes = [xxhash.xxh3_64_intdigest(view[begin:end]) for begin, end in pairwise(bounds.tolist())]
    return np.stack([np.diff(bounds).astype(np.uint64), np.array(hashes, np.uint64)], axis=1)


def _leaves(values: pa.Array) -> np.ndarray:
    if values.null_count:
        values = values.fill_null(-1 if pa.types.is_signed_integer(values.type) else 0)
    leaves = _numpy(values)
    return np.ascontiguousarray(leaves.astype(leaves.dtype.newbyteorder("<"), copy=False))


def _numpy(values: pa.Array) -> np.ndarray:
    return np.asarray(values.to_numpy(zero_copy_only=False))
