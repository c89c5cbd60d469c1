"""The nucleus: the fewest most probable ids whose mass reaches p, never more than `max_k`. Biased, as top-k is.

Shapes: P positions, k ids looked at.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitlake.pipeline.targets.sparsifiers.blocks import Blocks
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.targets.sparsifiers.top_k import coded_heads, largest

_FIRST_LOOK = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class TopP:
    """Ids in descending probability until their mass is at least `p`."""

    p: float
    max_k: int
    levels: int
    streams: int = 1

    def __call__(self, blocks: Blocks, uniforms_PS: NDArray[np.float64]) -> CodedTargets:
        """Targets of P positions; `uniforms_PS` holds one uniform for the rounding."""
        ids_Pk, weights_Pk = _nucleus_candidates(blocks, self.p, min(self.max_k, blocks.vocabulary))
        before_Pk = np.cumsum(weights_Pk, axis=1) - weights_Pk
        kept_Pk = (before_Pk < self.p * blocks.totals_P[:, None]) & (weights_Pk > 0)
        return coded_heads(blocks, ids_Pk, weights_Pk, kept_Pk, uniforms_PS[:, 0], self.levels)


def _nucleus_candidates(blocks: Blocks, p: float, max_k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids and weights `[P, max_k]`, descending, far enough down for each row; 0 beyond.

    Most rows reach p within a few ids: only those that do not are asked for four times as many, and again.
    """
    ids_Pk = np.zeros((blocks.n_positions, max_k), np.int64)
    weights_Pk = np.zeros((blocks.n_positions, max_k))
    rows_R, k = np.arange(blocks.n_positions), min(_FIRST_LOOK, max_k)
    while len(rows_R):
        ids_Pk[rows_R, :k], weights_Pk[rows_R, :k] = largest(blocks, k, rows_R)
        short = weights_Pk[rows_R, :k].sum(axis=1) < p * blocks.totals_P[rows_R]
        rows_R, k = (rows_R[short], min(4 * k, max_k)) if k < max_k else (rows_R[:0], k)
    return ids_Pk, weights_Pk
