"""The nucleus, as in `sparsifiers/top_p.py`.

Shapes: P positions, k ids looked at: always `max_k`, since asking whether fewer are enough would make the host wait.
"""

import torch

from logitlake.pipeline.targets.on_device.padded_targets import PaddedTargets
from logitlake.pipeline.targets.on_device.top_k import largest, padded_heads
from logitlake.pipeline.targets.sparsifiers.scan import Scan
from logitlake.pipeline.targets.sparsifiers.top_p import TopP


def draw(sparsifier: TopP, scan: Scan, uniforms_PS: torch.Tensor) -> PaddedTargets:
    """Targets of P positions; see DeviceDraw."""
    ids_Pk, weights_Pk = largest(scan, sparsifier.max_k)
    before_Pk = weights_Pk.double().cumsum(dim=1) - weights_Pk
    is_head_Pk = before_Pk < sparsifier.p * scan.totals_P[:, None]
    return padded_heads(scan, ids_Pk, torch.where(is_head_Pk, weights_Pk, 0.0), uniforms_PS[:, 0], sparsifier.levels)
