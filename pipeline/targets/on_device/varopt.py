"""Threshold sampling, as in `sparsifiers/varopt.py`.

No more than 1 / τ ids have a probability of τ, and no more blocks a sum of it: so many places are reserved.

Shapes: P positions, B blocks, K ids per block, M blocks looked into, H heads and N tails at most.
"""

import torch

from logitlake.pipeline.targets.on_device.block_weights import descending, ids_of, look
from logitlake.pipeline.targets.on_device.draw import draw_ids
from logitlake.pipeline.targets.on_device.padded_targets import PaddedTargets, padded
from logitlake.pipeline.targets.on_device.quantize import systematic_codes
from logitlake.pipeline.targets.sparsifiers.scan import Scan
from logitlake.pipeline.targets.sparsifiers.varopt import BLOCK_SLACK, COUNT_SLACK, VarOpt


def draw(sparsifier: VarOpt, scan: Scan, uniforms_PS: torch.Tensor) -> PaddedTargets:
    """Targets of P positions; see DeviceDraw."""
    threshold, levels = sparsifier.threshold, sparsifier.levels
    ceiling_P = threshold * scan.totals_P
    head_ids_PH, weights_PH, tail_sums_PB = _heads(scan, ceiling_P, sparsifier.most_heads)
    codes_PH = systematic_codes(weights_PH, tail_sums_PB.sum(dim=1), uniforms_PS[:, 0], levels)
    residual_P1 = (levels - codes_PH.sum(dim=1, keepdim=True)).double() / levels
    counts_P1 = torch.ceil(residual_P1 / threshold - COUNT_SLACK)
    steps_N = torch.arange(sparsifier.most_tails, device=uniforms_PS.device)
    fractions_PN = (steps_N + uniforms_PS[:, 1:2]) / counts_P1.clamp(min=1)
    tail_ids_PN = draw_ids(scan, tail_sums_PB, fractions_PN, ceiling_P)
    return padded(head_ids_PH, codes_PH, torch.where(steps_N < counts_P1, tail_ids_PN, -1))


def _heads(scan: Scan, ceiling_P: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and weights of the heads in descending weight, weight 0 where there is none, and the block sums without them.

    See the function of this name in `sparsifiers/varopt.py`.
    """
    sums_PB = scan.sums_PB.double()
    sums_PM, blocks_PM = torch.topk(sums_PB, min(most, scan.n_blocks), dim=1)
    may_hold_heads_PM = sums_PM >= ceiling_P[:, None] * (1 - BLOCK_SLACK)
    weights_PMK, ids_PMK = look(scan, blocks_PM), ids_of(blocks_PM)
    is_head_PMK = may_hold_heads_PM[:, :, None] & (weights_PMK >= ceiling_P[:, None, None])
    left_PM = torch.where(is_head_PMK, 0.0, weights_PMK).sum(dim=2, dtype=torch.float64)
    tail_sums_PB = sums_PB.scatter(1, blocks_PM, torch.where(may_hold_heads_PM, left_PM, sums_PM))
    head_ids_PH, weights_PH = descending(
        weights_PMK.flatten(1), ids_PMK.flatten(1), is_head_PMK.flatten(1), min(most, scan.vocabulary)
    )
    return head_ids_PH, weights_PH, tail_sums_PB
