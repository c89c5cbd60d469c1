"""What a sparsifier sees of a teacher's distributions. Free of torch, so that a sparsifier's settings load fast.

Shapes: P positions, B blocks per row, K = BLOCK ids per block, M blocks looked into, R rows, H ids.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK = 128


class BlockSums(Protocol):
    """Block sums of P distributions before normalisation, and access to single blocks; see Blocks, which makes them."""

    n_positions: int
    n_blocks: int
    vocabulary: int
    sums_PB: NDArray[np.float64]  # noqa: N815 (shape suffix)
    totals_P: NDArray[np.float64]  # noqa: N815 (shape suffix)

    def look(self, rows_M: NDArray[np.int64], blocks_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """Weights `float32[M, K]` inside the named blocks, 0 past the vocabulary."""

    def largest(self, k: int, rows_R: NDArray[np.int64] | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids and weights `[R, k]` of the k largest of the named rows (none: all), descending; ties by ascending id."""

    def rest(self, rows_H: NDArray[np.int64], ids_H: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weight `float64[P]` of every id but the named ones."""
