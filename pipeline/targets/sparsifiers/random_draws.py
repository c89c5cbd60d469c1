"""Random sampling knowledge distillation (Anshumann et al., ACL 2025): N draws from p with replacement, p̂ = count / N.

Stored as heads with code = count and levels = N: smaller than N tail entries, and Σp̂ = 1 exactly. Unbiased, with more
noise per entry than threshold sampling. Shapes: P positions, D = P · N draws, H distinct ids.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from logitlake.pipeline.settings.target import MAX_LEVELS, SizeKnob, TargetFacts, TargetSettings
from logitlake.pipeline.targets.sparsifiers.block_sums import BlockSums
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets, join, offsets_of
from logitlake.pipeline.targets.sparsifiers.draw import draw_ids


class RandomSettings(TargetSettings):
    """Independent draws with replacement (RS-KD): unbiased."""

    sparsifier: Literal["random"] = "random"
    draws: int = Field(50, ge=1, le=MAX_LEVELS, description="draws per position")

    facts: ClassVar = TargetFacts(unbiased=True, cuts_mass=False, heads="counts", noise="multinomial")
    levels_are_the_knob: ClassVar = True
    size_knob: ClassVar = SizeKnob(
        setting="draws", grid=(1, 2, 4, 8, 16, 24, 36, 54, 80, 120, 180, 270, 540, 1080), whole=True
    )

    @property
    def levels_in_use(self) -> int:
        """A code is a count of draws, so there are as many levels as draws."""
        return self.draws

    def expected_entries(self) -> float:
        """A power law through measured points."""
        return 8.6 * math.pow(self.draws / 25, 0.67)

    def make_sparsifier(self) -> "Random":
        return Random(streams=self.draws)

    @model_validator(mode="after")
    def _levels_are_the_draws(self) -> "RandomSettings":
        if self.levels is not None:
            raise ValueError("sparsifier random has as many `levels` as `draws`: leave out `levels`")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Random:
    """`streams` draws per position, with replacement."""

    streams: int
    on_device: ClassVar = "logitlake.pipeline.targets.on_device.random_draws:draw"

    @property
    def most_entries(self) -> int:
        return self.streams

    @property
    def levels(self) -> int:
        return self.streams

    def __call__(self, blocks: BlockSums, uniforms_PS: NDArray[np.float64]) -> CodedTargets:
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
