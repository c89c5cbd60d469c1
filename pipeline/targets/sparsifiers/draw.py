"""Drawing ids in proportion to their weight: first a block by the block sums, then an id inside the block drawn.

The points come in as fractions of a row's weight in [0, 1). The same two searches serve systematic sampling (evenly
spaced points) and draws with replacement (independent points).

Shapes: P positions, B blocks, K ids per block, D draws of all positions together, M blocks that were drawn.
"""

import numpy as np
from numpy.typing import NDArray

from logitlake.pipeline.targets.sparsifiers.block_sums import BLOCK, BlockSums


def draw_ids(
    blocks: BlockSums,
    sums_PB: NDArray[np.float64],
    rows_D: NDArray[np.int64],
    fractions_D: NDArray[np.float64],
    ceiling: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Ids `int64[D]`: draw d takes the id of row `rows_D[d]` at the fraction `fractions_D[d]` of that row's weight.

    `sums_PB` are the block sums to draw from. With `ceiling` (float64[P]), ids of that weight or more are left out,
    and `sums_PB` must have been made without them. Points that ascend within a row give ids that ascend.
    """
    if not len(rows_D):
        return np.zeros(0, np.int64)
    flat_D, inner_D = _search(sums_PB, rows_D, fractions_D)
    drawn_M, inverse_D = np.unique(flat_D, return_inverse=True)
    rows_M, blocks_M = np.divmod(drawn_M, blocks.n_blocks)
    weights_MK = blocks.look(rows_M, blocks_M).astype(np.float64)
    if ceiling is not None:
        weights_MK[weights_MK >= ceiling[rows_M, None]] = 0.0
    cells_D, _ = _search(weights_MK, inverse_D, inner_D)
    ids_D = blocks_M[inverse_D] * BLOCK + cells_D % BLOCK
    return np.minimum(ids_D, blocks.vocabulary - 1)


def _search(
    weights_RN: NDArray[np.float64], rows_D: NDArray[np.int64], fractions_D: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Flat index of the cell each fraction falls in, and the fraction inside that cell; empty cells are never hit.

    One binary search over all rows at once: row r's cumulative weights, divided by their sum, lie in (r, r + 1].
    """
    n_rows, width = weights_RN.shape
    reached_RN = np.cumsum(weights_RN, axis=1)
    reached_RN /= np.maximum(reached_RN[:, -1:], np.finfo(np.float64).tiny)
    reached = (reached_RN + np.arange(n_rows)[:, None]).ravel()
    points_D = np.minimum(rows_D + fractions_D, np.nextafter(rows_D + 1.0, 0.0))
    flat_D = np.minimum(np.searchsorted(reached, points_D, side="right"), rows_D * width + width - 1)
    ends_D = reached[flat_D]
    begins_D = np.where(flat_D % width > 0, reached[flat_D - 1], rows_D)
    span_D = np.maximum(ends_D - begins_D, np.finfo(np.float64).tiny)
    return flat_D, np.clip((points_D - begins_D) / span_D, 0.0, np.nextafter(1.0, 0.0))
