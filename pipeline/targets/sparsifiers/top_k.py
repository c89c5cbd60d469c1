"""The k most probable ids. Biased: what is cut never comes back. For comparison, and for data made elsewhere.

Shapes: P positions, k ids kept, H heads of all positions together.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from logitlake.pipeline.targets.quantize import systematic_codes
from logitlake.pipeline.targets.sparsifiers.blocks import Blocks
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets, join, offsets_of, only_coded


@dataclass(frozen=True, kw_only=True, slots=True)
class TopK:
    """The `k` largest; which of several equals are kept at the boundary is the device's choice."""

    k: int
    levels: int
    streams: int = 1

    def __call__(self, blocks: Blocks, uniforms_PS: NDArray[np.float64]) -> CodedTargets:
        """Targets of P positions; `uniforms_PS` holds one uniform for the rounding."""
        ids_Pk, weights_Pk = largest(blocks, self.k)
        return coded_heads(blocks, ids_Pk, weights_Pk, weights_Pk > 0, uniforms_PS[:, 0], self.levels)


def largest(
    blocks: Blocks, k: int, rows_R: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids and weights `[R, k]` of the k largest of the named rows (none: all), descending, equals by ascending id."""
    rows_R = np.arange(blocks.n_positions) if rows_R is None else rows_R
    rows = torch.from_numpy(rows_R).to(blocks.logits_PV.device)
    ids_Rk = torch.topk(blocks.logits_PV[rows], min(k, blocks.vocabulary), dim=1, sorted=False).indices
    weights_Rk = blocks.weights_at(rows, ids_Rk)
    ids = ids_Rk.cpu().numpy()
    order = np.lexsort((ids, -weights_Rk), axis=1)
    return np.take_along_axis(ids, order, 1), np.take_along_axis(weights_Rk, order, 1)


def coded_heads(
    blocks: Blocks,
    ids_Pk: NDArray[np.int64],
    weights_Pk: NDArray[np.float64],
    kept_Pk: NDArray[np.bool_],
    uniforms_P: NDArray[np.float64],
    levels: int,
) -> CodedTargets:
    """Targets of the kept ids alone, with dithered codes; an id whose code is 0 is dropped."""
    rows_H = np.repeat(np.arange(blocks.n_positions), kept_Pk.sum(axis=1))
    offsets_P1 = offsets_of(kept_Pk.sum(axis=1))
    ids_H, weights_H = ids_Pk[kept_Pk], weights_Pk[kept_Pk]
    codes_H = systematic_codes(weights_H, offsets_P1, blocks.rest(rows_H, ids_H), uniforms_P, levels)
    none_P = np.zeros(blocks.n_positions, np.int64)
    return join(*only_coded(rows_H, ids_H, codes_H, blocks.n_positions), none_P, none_P[:0], levels)
