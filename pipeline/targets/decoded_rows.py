"""Rows of the cache, decoded once where they lie, so that a batch of them is a few copies of slices.

Shapes: R rows; N positions of all rows end to end; E stored entries.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from logitlake.pipeline.targets.arrow_lists import flat_lists, running_sums
from logitlake.pipeline.targets.decoding import CutMass, decode_targets
from logitlake.storage.errors import IntegrityError


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedRows:
    """R rows that lie together: row r has positions `places[r]:places[r+1]` and entries `bounds[r]:bounds[r+1]`.

    `tokens` int32 [N]; `counts` int64 [N]: entries of each position; `ids` int32 [E]; `probs` float32 [E]; `ghost`
    float32 [N]: mass of the ghost bucket, or None where no row has one.
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
        return cls(chunks, running_sums(np.array([len(chunk.places) - 1 for chunk in chunks], np.int64)))

    def rows(self, order: np.ndarray) -> list[PickedRow]:
        """Where the rows `order` of the table are: a chunk and the row in it, each."""
        found = np.searchsorted(self.starts, order, side="right") - 1
        places = zip(found.tolist(), (order - self.starts[found]).tolist(), strict=True)
        return [(self.chunks[chunk], row) for chunk, row in places]
