"""Targets as other programs take them: at each position, ids that differ from each other and their probabilities.

Shapes: R rows; N positions of all rows end to end; E entries. Entry i of a row is the target for token i+1.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitlake.pipeline.targets.decoding import CutMass, decode_targets
from logitlake.pipeline.targets.merging import merge_entries


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedEntries:
    """`row_offsets` int64 [R+1], `offsets` int64 [N+1], `ids` int32 [E], `probs` float64 [E] by falling probability."""

    row_offsets: NDArray[np.int64]
    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]
    probs: NDArray[np.float64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Entries of each position, int64 [N]; 0: no target."""
        return np.diff(self.offsets)

    def nested(self, values_E: NDArray[np.generic]) -> pa.Array:
        """Values per entry as a column of lists of lists."""
        inner = pa.ListArray.from_arrays(self.offsets.astype(np.int32), pa.array(values_E))
        return pa.ListArray.from_arrays(self.row_offsets.astype(np.int32), inner)


def merged_entries(rows: pa.Table, *, cut_mass: CutMass) -> MergedEntries:
    """Heads and tails of some rows alike: a tail is worth its share of the residual mass, and an id that stands twice
    at a position becomes one entry with the sum. Entries worth nothing are left out. The mass of a position is kept.

    `cut_mass`: where mass was cut off, `ghost` keeps the probabilities as stored (they sum below 1) and `renormalise`
    scales them to 1. Raises IntegrityError for rows that no capture can have written.
    """
    targets = decode_targets(rows, cut_mass=cut_mass)
    offsets, ids, probs = merge_entries(targets.offsets, targets.ids, targets.probs)
    return MergedEntries(row_offsets=targets.row_offsets, offsets=offsets, ids=ids, probs=probs)
