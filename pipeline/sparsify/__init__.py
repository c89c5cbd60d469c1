"""Sparsifiers: what turns a distribution into heads and tail. One a file, and one line in `make_sparsifier`.

Shapes everywhere here: P positions, V ids, B blocks of K ids per row, S uniforms per position, H heads, N tails.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.config import TargetSettings
from pipeline.quantize import default_levels
from pipeline.sparsify.blocks import Blocks
from pipeline.sparsify.random import Random
from pipeline.sparsify.sparse import SparseTargets
from pipeline.sparsify.top_k import TopK
from pipeline.sparsify.top_p import TopP
from pipeline.sparsify.varopt import VarOpt

__all__ = ["Sparsifier", "make_sparsifier"]


class Sparsifier(Protocol):
    """A pure function of block sums and uniforms."""

    @property
    def levels(self) -> int:
        """Probabilities of heads are multiples of 1 / levels."""

    @property
    def streams(self) -> int:
        """Uniforms needed per position."""

    def __call__(self, blocks: Blocks, uniforms_PS: NDArray[np.float64]) -> SparseTargets:
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
