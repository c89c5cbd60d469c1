"""Random sampling knowledge distillation (Anshumann et al., ACL 2025): N draws from p with replacement, p̂ = count / N.

Stored as heads with code = count and levels = N: smaller than N tail entries, and Σp̂ = 1 exactly. Unbiased, with more
noise per entry than threshold sampling. Shapes: P positions, D = P · N draws, H distinct ids.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitlake.pipeline.targets.sparsifiers.blocks import Blocks
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets, join, offsets_of
from logitlake.pipeline.targets.sparsifiers.draw import draw_ids


@dataclass(frozen=True, kw_only=True, slots=True)
class Random:
    """`streams` draws per position, with replacement."""

    streams: int

    @property
    def levels(self) -> int:
        return self.streams

    def __call__(self, blocks: Blocks, uniforms_PS: NDArray[np.float64]) -> CodedTargets:
        """Targets of P positions; each uniform is one draw."""
        rows_D = np.repeat(np.arange(blocks.n_positions), self.streams)
        ids_D = draw_ids(blocks, blocks.sums_PB, rows_D, uniforms_PS.ravel())
        cells_H, counts_H = np.unique(rows_D * blocks.vocabulary + ids_D, return_counts=True)
        rows_H, ids_H = np.divmod(cells_H, blocks.vocabulary)
        order_H = np.lexsort((ids_H, -counts_H, rows_H))
        offsets_P1 = offsets_of(np.bincount(rows_H, minlength=blocks.n_positions))
        none_P = np.zeros(blocks.n_positions, np.int64)
        codes_H = counts_H[order_H].astype(np.uint16)
        return join(offsets_P1, ids_H[order_H], codes_H, none_P, none_P[:0], self.levels)
