"""The k most probable ids, as in `sparsifiers/top_k.py`.

Shapes: P positions, V ids, B blocks, K ids per block, k heads at most, G blocks that hold them.
"""

import torch

from logitlake.pipeline.targets.on_device.block_weights import descending, look
from logitlake.pipeline.targets.on_device.padded_targets import PaddedTargets, padded
from logitlake.pipeline.targets.on_device.quantize import systematic_codes
from logitlake.pipeline.targets.sparsifiers.block_sums import BLOCK
from logitlake.pipeline.targets.sparsifiers.scan import Scan
from logitlake.pipeline.targets.sparsifiers.top_k import TopK


def draw(sparsifier: TopK, scan: Scan, uniforms_PS: torch.Tensor) -> PaddedTargets:
    """Targets of P positions; see DeviceDraw."""
    ids_Pk, weights_Pk = largest(scan, sparsifier.k)
    return padded_heads(scan, ids_Pk, weights_Pk, uniforms_PS[:, 0], sparsifier.levels)


def largest(scan: Scan, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and weights `[P, k]` of the k largest logits, descending; ties by ascending id.

    A device chooses by itself among equals that could be the last ones. So those above the last one are taken from
    its choice, and the lowest of those that equal it are looked for a second time.
    """
    logits_PV, k = scan.logits_PV, min(k, scan.vocabulary)
    x_Pk, ids_Pk = torch.topk(logits_PV, k, dim=1)
    last_P1 = x_Pk[:, -1:]
    n_above_P1 = (x_Pk > last_P1).sum(dim=1, keepdim=True)
    from_the_end_V = torch.arange(scan.vocabulary, 0, -1, dtype=torch.int32, device=logits_PV.device)
    equal_Pk = torch.topk(torch.where(logits_PV == last_P1, from_the_end_V, 0), k, dim=1).values
    equal_ids_Pk = (scan.vocabulary - equal_Pk.long()).clamp(max=scan.vocabulary - 1)
    places_k = torch.arange(k, device=logits_PV.device)
    equal_ids_Pk = equal_ids_Pk.gather(1, (places_k - n_above_P1).clamp(min=0))
    ids_Pk = torch.where(places_k < n_above_P1, ids_Pk, equal_ids_Pk)
    rows_P1 = torch.arange(scan.n_positions, device=logits_PV.device)[:, None]
    weights_Pk = scan.weights(rows_P1, x_Pk)
    return descending(weights_Pk, ids_Pk, weights_Pk > 0, k)


def padded_heads(
    scan: Scan, ids_Pk: torch.Tensor, weights_Pk: torch.Tensor, uniforms_P: torch.Tensor, levels: int
) -> PaddedTargets:
    """Targets without tails of heads in descending weight; a weight of 0 is no head."""
    codes_Pk = systematic_codes(weights_Pk, _rest(scan, ids_Pk, weights_Pk > 0), uniforms_P, levels)
    return padded(ids_Pk, codes_Pk)


def _rest(scan: Scan, ids_Pk: torch.Tensor, is_head_Pk: torch.Tensor) -> torch.Tensor:
    """Weight `float64[P]` of every id that is not a head, added up from what is left, never a difference."""
    n_blocks, most = scan.n_blocks, min(ids_Pk.shape[1], scan.n_blocks)
    # Each block that holds heads gets a place; ids past the vocabulary stand for what is no head.
    ids_Pk = torch.where(is_head_Pk, ids_Pk, n_blocks * BLOCK).sort(dim=1).values
    blocks_Pk = ids_Pk // BLOCK
    is_new_Pk = torch.nn.functional.pad(blocks_Pk[:, 1:] != blocks_Pk[:, :-1], (1, 0), value=True)
    places_Pk = is_new_Pk.cumsum(dim=1) - 1
    # One place more, for what is no head.
    blocks_PG = blocks_Pk.new_full((len(blocks_Pk), most + 1), n_blocks).scatter(1, places_Pk, blocks_Pk)
    weights_PGK = look(scan, blocks_PG.clamp(max=n_blocks - 1))
    cells_Pk = places_Pk * BLOCK + ids_Pk % BLOCK
    weights_PX = weights_PGK.flatten(1).scatter(1, cells_Pk, 0.0)
    left_PG = weights_PX.view(weights_PGK.shape).sum(dim=2, dtype=torch.float64)
    # The column past the last block takes what belongs to no block.
    sums_PB1 = torch.nn.functional.pad(scan.sums_PB.double(), (0, 1))
    return sums_PB1.scatter(1, blocks_PG, left_PG)[:, :n_blocks].sum(dim=1)
