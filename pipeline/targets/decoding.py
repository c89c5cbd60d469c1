"""Codes of the cache → probabilities: Arrow buffers in, flat arrays out, no Python object per token.

Shapes: R rows; N positions of all rows end to end; E stored entries. Entry i of a row is the target for token i+1.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from logitlake.pipeline.targets.arrow_lists import flat_lists, nested_lists, running_sums
from logitlake.storage.errors import IntegrityError

CutMass = Literal["renormalise", "ghost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedTargets:
    """Decoded targets of the positions of some rows, end to end, on the CPU.

    `row_offsets` int64 [R+1]: positions of each row; `offsets` int64 [N+1]: entries of each position, none where there
    is no target; `ids` int32 [E]; `probs` float32 [E]; `n_heads` int64 [N]: how many of a position's entries are heads,
    which come first; `ghost` float32 [N]: mass of the ghost bucket, or None where no row has one.
    """

    row_offsets: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    probs: np.ndarray
    n_heads: np.ndarray
    ghost: np.ndarray | None


def decode_targets(rows: pa.Table, *, cut_mass: CutMass = "renormalise") -> RaggedTargets:
    """Decode the columns `levels`, `target_ids` and `head_codes` of some rows.

    A head is worth code/levels. With L levels and C = Σ codes, the residual (L-C)/L is shared equally by the tail ids,
    duplicates counting twice. Where mass was cut off (heads, residual, no tail) `renormalise` makes a head worth
    code/C, and `ghost` keeps code/L and puts (L-C)/L in one further bucket that stands for all other ids together.

    Raises IntegrityError for rows that no capture can have written.
    """
    row_offsets, offsets, ids = nested_lists(rows["target_ids"])
    code_rows, code_offsets, codes = nested_lists(rows["head_codes"])
    if not np.array_equal(row_offsets, code_rows):
        raise IntegrityError("target_ids and head_codes have different numbers of positions: run `logitlake verify`")
    levels = _per_position(rows["levels"].to_numpy().astype(np.int64), row_offsets)
    n_ids, n_heads = np.diff(offsets), np.diff(code_offsets)
    n_tail = n_ids - n_heads
    coded = np.diff(running_sums(codes)[code_offsets])
    if (n_tail < 0).any() or (coded > levels).any():
        raise IntegrityError("more heads than ids, or heads that sum above 1: run `logitlake verify`")

    cut = (n_tail == 0) & (coded < levels) & (coded > 0)
    unit = np.where(cut, coded, levels) if cut_mass == "renormalise" and cut.any() else levels
    tail_value = (levels - coded) / (levels * np.maximum(n_tail, 1))
    probs = np.repeat(tail_value.astype(np.float32), n_ids)
    # Codes and levels are below 2^24, so a float32 holds them and their quotient is the nearest one.
    values = codes.astype(np.float32)
    values /= unit.astype(np.float32) if len(unit) == 1 else np.repeat(unit.astype(np.float32), n_heads)
    slots = np.repeat(offsets[:-1] - code_offsets[:-1], n_heads)
    slots += np.arange(len(codes))
    probs[slots] = values
    ghost = None
    if cut_mass == "ghost" and cut.any():
        ghost = np.where(cut, (levels - coded) / levels, 0.0).astype(np.float32)
    return RaggedTargets(row_offsets=row_offsets, offsets=offsets, ids=ids, probs=probs, n_heads=n_heads, ghost=ghost)


def _per_position(levels: np.ndarray, row_offsets: np.ndarray) -> np.ndarray:
    """The levels of every position, or the one number of all: rows of one recipe have the same."""
    if len(levels) and (levels == levels[0]).all():
        return levels[:1]
    return np.repeat(levels, np.diff(row_offsets))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedRows:
    """R rows that lie together: row r has positions `places[r]:places[r+1]` and entries `bounds[r]:bounds[r+1]`.

    `tokens` [N]; `counts` [N]: entries of each position; `ids` [E]: whole numbers of any width; `probs` float32 [E];
    `ghost` float32 [N]: mass of the ghost bucket, or None where no row has one.
    """

    places: list[int]
    bounds: list[int]
    tokens: np.ndarray
    counts: np.ndarray
    ids: np.ndarray
    probs: np.ndarray
    ghost: np.ndarray | None

    @classmethod
    def of(cls, rows: pa.Table, *, cut_mass: CutMass) -> "DecodedRows":
        """Decode rows. Raises IntegrityError for rows that no capture can have written."""
        targets = decode_targets(rows, cut_mass=cut_mass)
        tokens, places = flat_lists(rows["input_ids"])
        if not np.array_equal(places, targets.row_offsets):
            raise IntegrityError("input_ids and target_ids differ in their positions: run `logitlake verify`")
        counts = np.diff(targets.offsets)
        if counts[places[1:] - 1].any():
            raise IntegrityError("a sequence has a target after its last token: run `logitlake verify`")
        return cls(
            places=places.tolist(),
            bounds=targets.offsets[places].tolist(),
            tokens=tokens,
            counts=counts,
            ids=targets.ids,
            probs=targets.probs,
            ghost=targets.ghost,
        )


PickedRow = tuple[DecodedRows, int]


@dataclass(frozen=True, slots=True)
class DecodedTable:
    """Rows of a table, each of its chunks decoded by itself: no list is copied, and no offset outgrows 32 bits."""

    chunks: list[DecodedRows]
    starts: np.ndarray

    @classmethod
    def of(cls, rows: pa.Table, *, cut_mass: CutMass) -> "DecodedTable":
        """Decode a table (columns TARGET_COLUMNS). Raises IntegrityError as DecodedRows.of does."""
        chunks = [DecodedRows.of(pa.Table.from_batches([batch]), cut_mass=cut_mass) for batch in rows.to_batches()]
        return cls.joined(chunks)

    @classmethod
    def joined(cls, chunks: list[DecodedRows]) -> "DecodedTable":
        """The rows of the chunks one after the other."""
        return cls(chunks, running_sums(np.array([len(chunk.places) - 1 for chunk in chunks], np.int64)))

    def rows(self, order: np.ndarray) -> list[PickedRow]:
        """Where the rows `order` of the table are: a chunk and the row in it, each."""
        found = np.searchsorted(self.starts, order, side="right") - 1
        places = zip(found.tolist(), (order - self.starts[found]).tolist(), strict=True)
        return [(self.chunks[chunk], row) for chunk, row in places]
