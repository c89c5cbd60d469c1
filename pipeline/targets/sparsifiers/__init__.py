"""Sparsifiers: what turns a distribution into heads and tail. One a file with its settings, one line in `SPARSIFIERS`.

Shapes everywhere here: P positions, V ids, B blocks of K ids per row, S uniforms per position, H heads, N tails.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from logitlake.pipeline.settings.target import TargetSettings
from logitlake.pipeline.targets.sparsifiers.block_sums import BlockSums
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets

__all__ = ["Sparsifier", "make_sparsifier"]


class Sparsifier(Protocol):
    """A pure function of block sums and uniforms."""

    @property
    def levels(self) -> int:
        """Probabilities of heads are multiples of 1 / levels."""

    @property
    def streams(self) -> int:
        """Uniforms needed per position."""

    def __call__(self, blocks: BlockSums, uniforms_PS: NDArray[np.float64]) -> CodedTargets:
        """Targets of P positions from their block sums and `uniforms_PS` in [0, 1)."""


def make_sparsifier(settings: TargetSettings) -> Sparsifier:
    """The sparsifier of these settings."""
    sparsifier: Sparsifier = settings.make_sparsifier()
    return sparsifier
