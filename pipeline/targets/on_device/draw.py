"""Drawing ids in proportion to their weight, as in `sparsifiers/draw.py`: first a block, then an id inside it.

Shapes: P positions, B blocks, K ids per block, N draws per position.
"""

import torch

from logitlake.pipeline.targets.on_device.block_weights import look
from logitlake.pipeline.targets.sparsifiers.block_sums import BLOCK
from logitlake.pipeline.targets.sparsifiers.scan import Scan

_TINY = torch.finfo(torch.float64).tiny


def draw_ids(
    scan: Scan, sums_PB: torch.Tensor, fractions_PN: torch.Tensor, ceiling_P: torch.Tensor | None = None
) -> torch.Tensor:
    """Ids `int64[P, N]` at the fractions (float64, in [0, 1)) of the weight of each row.

    `sums_PB` (float64) are the block sums to draw from. With `ceiling_P` ids of that weight or more are left out, and
    `sums_PB` must have been made without them.
    """
    blocks_PN, inner_PN = _search_blocks(sums_PB, fractions_PN)
    weights_PNK = look(scan, blocks_PN).double()
    if ceiling_P is not None:
        weights_PNK.masked_fill_(weights_PNK >= ceiling_P[:, None, None], 0.0)
    reached_PNK = weights_PNK.cumsum(dim=2)
    reached_PNK /= reached_PNK[:, :, -1:].clamp(min=_TINY)
    # How many borders lie at or before the point: the cell that it falls in. An empty cell is never hit.
    cells_PN = (reached_PNK <= inner_PN[:, :, None]).sum(dim=2).clamp(max=BLOCK - 1)
    return (blocks_PN * BLOCK + cells_PN).clamp(max=scan.vocabulary - 1)


def _search_blocks(sums_PB: torch.Tensor, fractions_PN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The block that each fraction falls in, and the fraction inside that block.

    The number of the row is added to points and borders as on the host, where it lets one search serve all rows: so
    both round alike.
    """
    rows_P1 = torch.arange(len(sums_PB), device=sums_PB.device, dtype=torch.float64)[:, None]
    reached_PB = sums_PB.cumsum(dim=1)
    reached_PB /= reached_PB[:, -1:].clamp(min=_TINY)
    reached_PB += rows_P1
    points_PN = torch.minimum(rows_P1 + fractions_PN, torch.nextafter(rows_P1 + 1.0, torch.zeros_like(rows_P1)))
    blocks_PN = torch.searchsorted(reached_PB, points_PN, right=True).clamp(max=sums_PB.shape[1] - 1)
    ends_PN = reached_PB.gather(1, blocks_PN)
    before_PN = reached_PB.gather(1, (blocks_PN - 1).clamp(min=0))
    begins_PN = torch.where(blocks_PN > 0, before_PN, rows_P1)
    inner_PN = (points_PN - begins_PN) / (ends_PN - begins_PN).clamp(min=_TINY)
    one = torch.ones((), dtype=torch.float64, device=sums_PB.device)
    return blocks_PN, torch.minimum(inner_PN.clamp(min=0.0), torch.nextafter(one, 0 * one))
