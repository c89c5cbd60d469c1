"""What every sparsifier returns: heads with codes, tails without, in the order in which they are stored.

Shapes: P positions, H heads and N tails of all positions together, E = H + N entries.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class CodedTargets:
    """Targets of P positions in two CSR layouts that share their rows.

    `ids` holds, per position, the heads in descending probability and then the tails in ascending id;
    `codes` (uint16[H]) one code per head, so that a position's number of heads is its number of codes. Head i is worth
    code / levels; the n tails of a position are worth (1 - Σ codes / levels) / n each, duplicates counting twice.
    Offsets are int64[P + 1].
    """

    id_offsets: NDArray[np.int64]
    ids: NDArray[np.int32]
    code_offsets: NDArray[np.int64]
    codes: NDArray[np.uint16]
    levels: int


def offsets_of(counts_P: NDArray[np.integer]) -> NDArray[np.int64]:
    """CSR offsets `int64[P + 1]` of the given row lengths."""
    offsets = np.zeros(len(counts_P) + 1, np.int64)
    np.cumsum(counts_P, out=offsets[1:])
    return offsets


def only_coded(
    rows_H: NDArray[np.int64], ids_H: NDArray[np.integer], codes_H: NDArray[np.uint16], n_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.integer], NDArray[np.uint16]]:
    """Heads without those whose code is 0 (worth nothing): CSR offsets, ids and codes. `rows_H` ascends."""
    coded_H = codes_H > 0
    counts_P = np.bincount(rows_H[coded_H], minlength=n_rows)
    return offsets_of(counts_P), ids_H[coded_H], codes_H[coded_H]


def join(
    head_offsets_P1: NDArray[np.int64],
    head_ids_H: NDArray[np.integer],
    codes_H: NDArray[np.uint16],
    tail_counts_P: NDArray[np.integer],
    tail_ids_N: NDArray[np.integer],
    levels: int,
) -> CodedTargets:
    """Heads and tails of the same P positions as one CodedTargets."""
    head_counts_P = np.diff(head_offsets_P1)
    id_offsets = head_offsets_P1 + offsets_of(tail_counts_P)
    ids = np.empty(id_offsets[-1], np.int32)
    ids[_indices(id_offsets[:-1], head_counts_P)] = head_ids_H
    ids[_indices(id_offsets[:-1] + head_counts_P, tail_counts_P)] = tail_ids_N
    return CodedTargets(
        id_offsets=id_offsets,
        ids=ids,
        code_offsets=head_offsets_P1,
        codes=codes_H.astype(np.uint16, copy=False),
        levels=levels,
    )


def concatenate(parts: list[CodedTargets], levels: int) -> CodedTargets:
    """The positions of all parts, one after the other. ValueError if a part has other levels."""
    if any(part.levels != levels for part in parts):
        raise ValueError(f"parts: expected levels {levels}, found {sorted({part.levels for part in parts})}")
    empty = np.zeros(0, np.int64)
    return CodedTargets(
        id_offsets=offsets_of(np.concatenate([empty, *(np.diff(part.id_offsets) for part in parts)])),
        ids=np.concatenate([empty.astype(np.int32), *(part.ids for part in parts)]),
        code_offsets=offsets_of(np.concatenate([empty, *(np.diff(part.code_offsets) for part in parts)])),
        codes=np.concatenate([empty.astype(np.uint16), *(part.codes for part in parts)]),
        levels=levels,
    )


def _indices(begins_P: NDArray[np.int64], counts_P: NDArray[np.integer]) -> NDArray[np.int64]:
    """begins[0], begins[0] + 1, … counts[0] of them, then those of the next position."""
    first = np.repeat(begins_P - offsets_of(counts_P)[:-1], counts_P)
    return first + np.arange(len(first))
