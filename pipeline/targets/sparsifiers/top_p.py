"""The nucleus: the fewest most probable ids whose mass reaches p, never more than `max_k`. Biased, as top-k is.

Shapes: P positions, k ids looked at.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from logitlake.pipeline.settings.target import MAX_LEVELS, SizeKnob, TargetFacts, TargetSettings
from logitlake.pipeline.targets.sparsifiers.block_sums import BlockSums
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.targets.sparsifiers.top_k import coded_heads

_FIRST_LOOK = 32


class TopPSettings(TargetSettings):
    """The fewest most probable ids that reach a mass: biased."""

    sparsifier: Literal["top_p"] = "top_p"
    p: float = Field(0.95, gt=0, lt=1, description="probability mass of the ids together")
    max_k: int = Field(1024, ge=1, le=4096, description="never more ids than this")

    facts: ClassVar = TargetFacts(unbiased=False, cuts_mass=True)
    default_levels: ClassVar = MAX_LEVELS
    size_knob: ClassVar = SizeKnob(
        setting="p",
        grid=(0.1, 0.3, 0.5, 0.65, 0.75, 0.82, 0.88, 0.92, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999),
        towards_one=True,
    )

    def expected_entries(self) -> float:
        """A law through measured points."""
        return min(float(self.max_k), 2.5 / (1 - self.p))

    def make_sparsifier(self) -> "TopP":
        return TopP(p=self.p, max_k=self.max_k, levels=self.levels_in_use)


@dataclass(frozen=True, kw_only=True, slots=True)
class TopP:
    """Ids in descending probability until their mass is at least `p`."""

    p: float
    max_k: int
    levels: int
    streams: int = 1
    on_device: ClassVar = "logitlake.pipeline.targets.on_device.top_p:draw"

    @property
    def most_entries(self) -> int:
        return self.max_k

    def __call__(self, blocks: BlockSums, uniforms_PS: NDArray[np.float64]) -> CodedTargets:
        """Targets of P positions; `uniforms_PS` holds one uniform for the rounding."""
        ids_Pk, weights_Pk = _nucleus_candidates(blocks, self.p, min(self.max_k, blocks.vocabulary))
        before_Pk = np.cumsum(weights_Pk, axis=1) - weights_Pk
        is_head_Pk = (before_Pk < self.p * blocks.totals_P[:, None]) & (weights_Pk > 0)
        return coded_heads(blocks, ids_Pk, weights_Pk, is_head_Pk, uniforms_PS[:, 0], self.levels)


def _nucleus_candidates(blocks: BlockSums, p: float, max_k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids and weights `[P, max_k]`, descending, far enough down for each row; 0 beyond.

    Most rows reach p within a few ids: only those that do not are asked for four times as many, and again.
    """
    ids_Pk = np.zeros((blocks.n_positions, max_k), np.int64)
    weights_Pk = np.zeros((blocks.n_positions, max_k))
    rows_R, k = np.arange(blocks.n_positions), min(_FIRST_LOOK, max_k)
    while len(rows_R):
        ids_Pk[rows_R, :k], weights_Pk[rows_R, :k] = blocks.largest(k, rows_R)
        short = weights_Pk[rows_R, :k].sum(axis=1) < p * blocks.totals_P[rows_R]
        rows_R, k = (rows_R[short], min(4 * k, max_k)) if k < max_k else (rows_R[:0], k)
    return ids_Pk, weights_Pk
