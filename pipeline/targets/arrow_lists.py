"""Columns of lists as flat arrays: views of Arrow's buffers, no Python object per token."""

import numpy as np
import pyarrow as pa

from logitlake.storage.errors import IntegrityError


def flat_lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Values end to end, and the int64 offsets of the rows among them, of a column of lists without nulls inside."""
    lists = _one_array(column)
    if lists.null_count:
        raise IntegrityError("a list column holds a null row: run `logitlake verify`")
    offsets = _offsets(lists)
    values = lists.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    return values.to_numpy(zero_copy_only=False), offsets - offsets[0]


def nested_lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row offsets [R+1], position offsets [N+1] and leaves of a column of lists of lists; a null position is empty."""
    outer = _one_array(column)
    if outer.null_count:
        raise IntegrityError("a target column holds a null row: run `logitlake verify`")
    rows = _offsets(outer)
    inner = outer.values.slice(int(rows[0]), int(rows[-1] - rows[0]))
    positions = _offsets(inner)
    if inner.null_count:
        # Arrow lets a null list own values; `flatten` drops them, so the offsets are counted anew.
        lengths = np.where(inner.is_valid().to_numpy(zero_copy_only=False), np.diff(positions), 0)
        positions = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        leaves = inner.flatten()
    else:
        leaves = inner.values.slice(int(positions[0]), int(positions[-1] - positions[0]))
        positions = positions - positions[0]
    return rows - rows[0], positions, leaves.to_numpy(zero_copy_only=False)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _offsets(lists: pa.Array) -> np.ndarray:
    """Offsets of the rows of a (sliced) list array into its `values`; an empty array has the one offset 0."""
    if len(lists) == 0:
        return np.zeros(1, np.int64)
    return lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)


def running_sums(counts: np.ndarray) -> np.ndarray:
    """0 and the running sums: int64, one longer than `counts`."""
    sums = np.zeros(len(counts) + 1, np.int64)
    # Widened first: a running sum that widens as it goes takes four times as long.
    np.cumsum(counts.astype(np.int64, copy=False), out=sums[1:])
    return sums
