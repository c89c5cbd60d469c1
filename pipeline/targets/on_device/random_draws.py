"""Random sampling knowledge distillation, as in `sparsifiers/random_draws.py`.

Shapes: P positions, S draws per position, which are also the most ids that a position can have.
"""

import torch

from logitlake.pipeline.targets.on_device.draw import draw_ids
from logitlake.pipeline.targets.on_device.padded_targets import PaddedTargets, padded
from logitlake.pipeline.targets.sparsifiers.random_draws import Random
from logitlake.pipeline.targets.sparsifiers.scan import Scan

_LARGEST_ID = (1 << 31) - 1


def draw(sparsifier: Random, scan: Scan, uniforms_PS: torch.Tensor) -> PaddedTargets:
    """Targets of P positions; each uniform is one draw. See DeviceDraw."""
    ids_PS = draw_ids(scan, scan.sums_PB.double(), uniforms_PS).sort(dim=1).values
    is_new_PS = torch.nn.functional.pad(ids_PS[:, 1:] != ids_PS[:, :-1], (1, 0), value=True)
    # Equal ids stand side by side: each run is counted at its own place.
    runs_PS = is_new_PS.cumsum(dim=1) - 1
    counts_PS = torch.zeros_like(ids_PS).scatter_add(1, runs_PS, torch.ones_like(ids_PS))
    run_ids_PS = torch.zeros_like(ids_PS).scatter(1, runs_PS, ids_PS)
    keys_PS = (counts_PS << 32 | _LARGEST_ID - run_ids_PS).sort(dim=1, descending=True).values
    return padded(_LARGEST_ID - (keys_PS & _LARGEST_ID), keys_PS >> 32)
