"""Weights of single blocks, and the largest of some weights, as tensors.

Shapes: P positions, V ids, B blocks per row, K = BLOCK ids per block, M blocks looked into, N candidates, k chosen.
"""

import torch

from logitlake.pipeline.targets.sparsifiers.block_sums import BLOCK
from logitlake.pipeline.targets.sparsifiers.scan import Scan

_LARGEST_ID = (1 << 31) - 1


def look(scan: Scan, blocks_PM: torch.Tensor) -> torch.Tensor:
    """Weights `float32[P, M, K]` inside the named blocks of each row, 0 past the vocabulary."""
    rows_P11 = torch.arange(scan.n_positions, device=blocks_PM.device)[:, None, None]
    if scan.vocabulary % BLOCK == 0 and scan.logits_PV.is_contiguous():
        cells_PM = rows_P11[:, 0] * scan.n_blocks + blocks_PM
        return scan.weights(rows_P11, scan.logits_PV.view(-1, BLOCK)[cells_PM])
    ids_PMK = ids_of(blocks_PM)
    e_PMK = scan.weights(rows_P11, scan.logits_PV[rows_P11, ids_PMK.clamp(max=scan.vocabulary - 1)])
    return e_PMK.masked_fill_(ids_PMK >= scan.vocabulary, 0.0)


def ids_of(blocks_PM: torch.Tensor) -> torch.Tensor:
    """Ids `int64[P, M, K]` of the named blocks, also those past the vocabulary."""
    return blocks_PM[:, :, None] * BLOCK + torch.arange(BLOCK, device=blocks_PM.device)


def descending(
    weights_PN: torch.Tensor, ids_PN: torch.Tensor, is_chosen_PN: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids `int64[P, k]` and weights `float32[P, k]` of the k largest that are chosen: by weight, ties by ascending id.

    Where fewer are chosen, id and weight are 0. The bits of a float32 that is not negative order as its value does, so
    bits and id make one integer, and no two are equal: every device gives the same order.
    """
    bits_PN = weights_PN.contiguous().view(torch.int32).long()
    keys_PN = torch.where(is_chosen_PN, bits_PN << 32 | (_LARGEST_ID - ids_PN), -1)
    keys_Pk = torch.topk(keys_PN, k, dim=1).values
    is_there_Pk = keys_Pk >= 0
    weights_Pk = (keys_Pk >> 32).int().view(torch.float32)
    return (
        torch.where(is_there_Pk, _LARGEST_ID - (keys_Pk & _LARGEST_ID), 0),
        torch.where(is_there_Pk, weights_Pk, 0.0),
    )
