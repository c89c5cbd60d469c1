"""Sparsifiers: what turns a distribution into heads and tail. One a file, and one line in `make_sparsifier`.

Shapes everywhere here: P positions, V ids, B blocks of K ids per row, S uniforms per position, H heads, N tails.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from logitlake.pipeline.settings.models import TargetSettings
from logitlake.pipeline.targets.quantize import default_levels
from logitlake.pipeline.targets.sparsifiers.blocks import Blocks
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.targets.sparsifiers.random_draws import Random
from logitlake.pipeline.targets.sparsifiers.top_k import TopK
from logitlake.pipeline.targets.sparsifiers.top_p import TopP
from logitlake.pipeline.targets.sparsifiers.varopt import VarOpt

__all__ = ["Sparsifier", "make_sparsifier"]


class Sparsifier(Protocol):
    """A pure function of block sums and uniforms."""

    @property
    def levels(self) -> int:
        """Probabilities of heads are multiples of 1 / levels."""

    @property
    def streams(self) -> int:
        """Uniforms needed per position."""

    def __call__(self, blocks: Blocks, uniforms_PS: NDArray[np.float64]) -> CodedTargets:
        """Targets of P positions from their block sums and `uniforms_PS` in [0, 1)."""


def make_sparsifier(settings: TargetSettings) -> Sparsifier:
    """The sparsifier that the settings name."""
    levels = default_levels(settings)
    match settings.sparsifier:
        case "varopt":
            return VarOpt(threshold=settings.threshold, levels=levels)
        case "random":
            return Random(streams=settings.draws)
        case "top_k":
            return TopK(k=settings.k, levels=levels)
        case "top_p":
            return TopP(p=settings.p, max_k=settings.max_k, levels=levels)
