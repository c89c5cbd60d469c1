"""Rows of the cache taken apart into flat arrays once, so that a batch of them is a few copies of slices.

Shapes: R rows; N positions of all rows end to end; E stored entries; H heads among them. No Python object per token:
arrays are views of Arrow's buffers wherever Arrow holds them as they are needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.errors import IntegrityError


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatRows:
    """The columns `levels`, `input_ids`, `target_ids` and `head_codes` of R rows.

    `levels` [R]; `row_offsets` int64 [R+1]: positions of each row; `tokens` int32 [N], or none where the columns were
    read without `input_ids`; `n_ids`, `n_heads` int64 [N]: entries of a position, and the heads among them; `ids` int32
    [E] and `codes` uint16 [H] with `id_offsets`, `code_offsets` int64 [R+1]: those of each row.
    """

    levels: np.ndarray
    row_offsets: np.ndarray
    tokens: np.ndarray
    n_ids: np.ndarray
    n_heads: np.ndarray
    id_offsets: np.ndarray
    ids: np.ndarray
    code_offsets: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, rows: pa.Table) -> "FlatRows":
        """Take rows apart. Raises IntegrityError where the lists of a row have different numbers of positions."""
        row_offsets, positions, ids = _nested(rows["target_ids"])
        code_rows, code_positions, codes = _nested(rows["head_codes"])
        if not np.array_equal(row_offsets, code_rows):
            raise IntegrityError("target_ids and head_codes differ in their positions: run `logitlake verify`")
        tokens = np.zeros(0, np.int32)
        if "input_ids" in rows.column_names:
            tokens, token_offsets = flat_lists(rows["input_ids"])
            if not np.array_equal(row_offsets, token_offsets):
                raise IntegrityError("input_ids and target_ids differ in their positions: run `logitlake verify`")
        return cls(
            levels=rows["levels"].to_numpy(),
            row_offsets=row_offsets,
            tokens=tokens,
            n_ids=np.diff(positions),
            n_heads=np.diff(code_positions),
            id_offsets=positions[row_offsets],
            ids=ids,
            code_offsets=code_positions[row_offsets],
            codes=codes,
        )


def gather(pieces: Sequence[tuple[FlatRows, np.ndarray]]) -> FlatRows:
    """Rows `order` of each piece, one after the other, a row as often as it is named. Cost: one copy of it."""
    picked = [(rows, int(row)) for rows, order in pieces for row in order]

    def slices(values: str, offsets: str) -> list[np.ndarray]:
        bounds = [(getattr(rows, values), getattr(rows, offsets), row) for rows, row in picked]
        return [array[places[row] : places[row + 1]] for array, places, row in bounds]

    tokens, n_ids, n_heads = (slices(name, "row_offsets") for name in ("tokens", "n_ids", "n_heads"))
    ids, codes = slices("ids", "id_offsets"), slices("codes", "code_offsets")
    return FlatRows(
        levels=np.array([rows.levels[row] for rows, row in picked], np.int32),
        row_offsets=_offsets_of(n_ids),
        tokens=_joined(tokens, np.int32),
        n_ids=_joined(n_ids, np.int64),
        n_heads=_joined(n_heads, np.int64),
        id_offsets=_offsets_of(ids),
        ids=_joined(ids, np.int32),
        code_offsets=_offsets_of(codes),
        codes=_joined(codes, np.uint16),
    )


def flat_lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Values end to end, and the int64 offsets of the rows among them, of a column of lists without nulls inside."""
    lists = _one_array(column)
    if lists.null_count:
        raise IntegrityError("a list column holds a null row: run `logitlake verify`")
    offsets = _offsets(lists)
    values = lists.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    return values.to_numpy(zero_copy_only=False), offsets - offsets[0]


def _nested(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _offsets_of(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)


def _joined(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, kind)
