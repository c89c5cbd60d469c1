"""Threshold sampling: every id with p >= τ is a head, the rest of the mass is carried by a few drawn tails.

VarOpt, or sampling with probability proportional to size (Cohen, Duffield, Kaplan, Lund, Thorup 2009). With r̂ the mass
that the heads' codes leave, n = ceil(r̂ / τ) tails are drawn by systematic sampling in proportion to p among the ids
that are not heads, each worth r̂ / n: at most τ. E[p̂] = p for every id, quantisation included, and Σp̂ = 1 exactly.
Cost: one pass over the logits, then the blocks that can hold a head and the blocks that were drawn.

Shapes: P positions, B blocks, K ids per block, H heads, N tails, M blocks looked into.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from logitlake.pipeline.settings.target import SizeKnob, TargetFacts, TargetSettings
from logitlake.pipeline.targets.quantize import code_sums, systematic_codes
from logitlake.pipeline.targets.sparsifiers.block_sums import BLOCK, BlockSums
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets, join, offsets_of, only_coded
from logitlake.pipeline.targets.sparsifiers.draw import draw_ids

# r̂ / τ is a ratio of two decimals: 0.15 / 0.05 must not become 4 tails.
COUNT_SLACK = 1e-9
# A block sum was rounded to float32: look a little lower than the threshold.
BLOCK_SLACK = 1e-5


class VarOptSettings(TargetSettings):
    """Ids above a threshold, and a few drawn ids for the rest: unbiased."""

    sparsifier: Literal["varopt"] = "varopt"
    threshold: float = Field(0.05, ge=1e-4, le=0.5, description="ids at least this probable are heads")

    facts: ClassVar = TargetFacts(unbiased=True, cuts_mass=False, noise="systematic")
    # Measured: with 64 levels the codes take less room than finer ones and add less noise than the tails have.
    default_levels: ClassVar = 64
    size_knob: ClassVar = SizeKnob(
        setting="threshold",
        grid=(
            *(0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.0625, 0.044, 0.031, 0.022, 0.0156, 0.011),
            *(0.0078, 0.0039, 0.002),
        ),
    )

    def expected_entries(self) -> float:
        """A power law through measured points."""
        return 5.5 * math.pow(0.1 / self.threshold, 0.67)

    def make_sparsifier(self) -> "VarOpt":
        return VarOpt(threshold=self.threshold, levels=self.levels_in_use)


@dataclass(frozen=True, kw_only=True, slots=True)
class VarOpt:
    """Heads above `threshold`, tails by systematic sampling."""

    threshold: float
    levels: int
    streams: int = 2
    on_device: ClassVar = "logitlake.pipeline.targets.on_device.varopt:draw"

    @property
    def most_heads(self) -> int:
        """No more ids, and no more blocks, have at least the threshold of the mass."""
        return math.floor(1 / (self.threshold * (1 - BLOCK_SLACK)))

    @property
    def most_tails(self) -> int:
        """The tails of a position without heads."""
        return math.ceil(1 / self.threshold - COUNT_SLACK)

    @property
    def most_entries(self) -> int:
        return self.most_heads + self.most_tails

    def __call__(self, blocks: BlockSums, uniforms_PS: NDArray[np.float64]) -> CodedTargets:
        """Targets of P positions; `uniforms_PS` holds one uniform for the rounding and one for the tails."""
        ceiling_P = self.threshold * blocks.totals_P
        rows_H, ids_H, weights_H, tail_sums_PB = _heads(blocks, ceiling_P)
        offsets_P1 = offsets_of(np.bincount(rows_H, minlength=blocks.n_positions))
        rest_P = tail_sums_PB.sum(axis=1)
        codes_H = systematic_codes(weights_H, offsets_P1, rest_P, uniforms_PS[:, 0], self.levels)
        residual_P = (self.levels - code_sums(codes_H, offsets_P1)) / self.levels
        counts_P = np.ceil(residual_P / self.threshold - COUNT_SLACK).astype(np.int64)
        rows_N = np.repeat(np.arange(blocks.n_positions), counts_P)
        steps_N = np.arange(len(rows_N)) - np.repeat(offsets_of(counts_P)[:-1], counts_P)
        fractions_N = (steps_N + uniforms_PS[rows_N, 1]) / counts_P[rows_N]
        tail_ids_N = draw_ids(blocks, tail_sums_PB, rows_N, fractions_N, ceiling_P)
        return join(*only_coded(rows_H, ids_H, codes_H, blocks.n_positions), counts_P, tail_ids_N, self.levels)


def _heads(
    blocks: BlockSums, ceiling_P: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]:
    """Rows, ids and weights of the heads in descending weight per row, and the block sums without them.

    A block that holds a head sums to the head at least, so only such blocks are looked into. The sum that is left in
    them is added up from what is left, never a difference.
    """
    rows_M, blocks_M = np.nonzero(blocks.sums_PB >= ceiling_P[:, None] * (1 - BLOCK_SLACK))
    weights_MK = blocks.look(rows_M, blocks_M)
    is_head_MK = weights_MK >= ceiling_P[rows_M, None]
    tail_sums_PB = blocks.sums_PB.copy()
    tail_sums_PB[rows_M, blocks_M] = np.where(is_head_MK, np.float32(0), weights_MK).sum(axis=1, dtype=np.float64)
    m_H, k_H = np.nonzero(is_head_MK)
    rows_H, ids_H, weights_H = rows_M[m_H], blocks_M[m_H] * BLOCK + k_H, weights_MK[m_H, k_H]
    order_H = np.lexsort((ids_H, -weights_H, rows_H))
    return rows_H[order_H], ids_H[order_H], weights_H[order_H], tail_sums_PB
