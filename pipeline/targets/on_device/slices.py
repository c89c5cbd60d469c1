"""Draws a chunk in slices, so that what is reserved for the blocks of every entry takes little memory.

Shapes: P positions, S uniforms per position.
"""

from typing import Any

import torch

from logitlake.pipeline.targets.on_device import DeviceDraw
from logitlake.pipeline.targets.on_device.padded_targets import PaddedTargets, concatenate_padded
from logitlake.pipeline.targets.sparsifiers.block_sums import BLOCK
from logitlake.pipeline.targets.sparsifiers.scan import Scan

# Weights that are looked at together: 256 MB in float64.
_MOST_WEIGHTS = 1 << 25


def draw_in_slices(draw: DeviceDraw, sparsifier: Any, scan: Scan, uniforms_PS: torch.Tensor) -> PaddedTargets:
    """The targets of all positions of a scan."""
    step = max(1, _MOST_WEIGHTS // (sparsifier.most_entries * BLOCK))
    if step >= scan.n_positions:
        return draw(sparsifier, scan, uniforms_PS)
    begins = range(0, scan.n_positions, step)
    return concatenate_padded(
        [draw(sparsifier, scan.rows(begin, begin + step), uniforms_PS[begin : begin + step]) for begin in begins]
    )
