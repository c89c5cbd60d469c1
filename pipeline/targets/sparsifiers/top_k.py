"""The k most probable ids. Biased: the mass of all other ids is lost. For comparison, and for targets made elsewhere.

Shapes: P positions, k candidate ids, H heads of all positions together.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from logitlake.pipeline.settings.target import MAX_LEVELS, SizeKnob, TargetFacts, TargetSettings
from logitlake.pipeline.targets.quantize import systematic_codes
from logitlake.pipeline.targets.sparsifiers.block_sums import BlockSums
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets, join, offsets_of, only_coded


class TopKSettings(TargetSettings):
    """The most probable ids: biased."""

    sparsifier: Literal["top_k"] = "top_k"
    k: int = Field(50, ge=1, le=1024, description="number of ids")

    facts: ClassVar = TargetFacts(unbiased=False, cuts_mass=True)
    # A truncation has no noise of drawing that would hide the rounding.
    default_levels: ClassVar = MAX_LEVELS
    size_knob: ClassVar = SizeKnob(
        setting="k", grid=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024), whole=True
    )

    def expected_entries(self) -> float:
        """Every position has k."""
        return float(self.k)

    def make_sparsifier(self) -> "TopK":
        return TopK(k=self.k, levels=self.levels_in_use)


@dataclass(frozen=True, kw_only=True, slots=True)
class TopK:
    """The `k` largest; of several equally probable ids that could be the last ones, the lowest."""

    k: int
    levels: int
    streams: int = 1
    on_device: ClassVar = "logitlake.pipeline.targets.on_device.top_k:draw"

    @property
    def most_entries(self) -> int:
        return self.k

    def __call__(self, blocks: BlockSums, uniforms_PS: NDArray[np.float64]) -> CodedTargets:
        """Targets of P positions; `uniforms_PS` holds one uniform for the rounding."""
        ids_Pk, weights_Pk = blocks.largest(self.k)
        return coded_heads(blocks, ids_Pk, weights_Pk, weights_Pk > 0, uniforms_PS[:, 0], self.levels)


def coded_heads(
    blocks: BlockSums,
    ids_Pk: NDArray[np.int64],
    weights_Pk: NDArray[np.float64],
    is_head_Pk: NDArray[np.bool_],
    uniforms_P: NDArray[np.float64],
    levels: int,
) -> CodedTargets:
    """Targets without tails: the ids that are heads, with dithered codes; an id whose code is 0 is dropped."""
    rest_P = blocks.rest(np.repeat(np.arange(len(ids_Pk)), is_head_Pk.sum(axis=1)), ids_Pk[is_head_Pk])
    return coded_beside(rest_P, ids_Pk, weights_Pk, is_head_Pk, uniforms_P, levels)


def coded_beside(
    rest_P: NDArray[np.float64],
    ids_Pk: NDArray[np.int64],
    weights_Pk: NDArray[np.float64],
    is_head_Pk: NDArray[np.bool_],
    uniforms_P: NDArray[np.float64],
    levels: int,
) -> CodedTargets:
    """As coded_heads, where `rest_P` is the weight of every id that is not a head."""
    counts_P = is_head_Pk.sum(axis=1)
    rows_H, offsets_P1 = np.repeat(np.arange(len(ids_Pk)), counts_P), offsets_of(counts_P)
    codes_H = systematic_codes(weights_Pk[is_head_Pk], offsets_P1, rest_P, uniforms_P, levels)
    none_P = np.zeros(len(ids_Pk), np.int64)
    return join(*only_coded(rows_H, ids_Pk[is_head_Pk], codes_H, len(ids_Pk)), none_P, none_P[:0], levels)
