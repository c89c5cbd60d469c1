"""Entries of positions, brought into one form: each id once, the most probable first."""

import numpy as np
from numpy.typing import NDArray

from logitlake.pipeline.targets.arrow_lists import running_sums


def merge_entries(
    offsets: NDArray[np.int64], ids: NDArray[np.integer], probs: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """Offsets [N+1], ids [E] and probabilities float64 [E] of N positions, by falling probability and then by id.

    Probabilities of an id that stands twice at a position are summed; entries worth nothing are left out.
    """
    positions = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    keys = (positions << 32) | ids.astype(np.int64)
    order = np.argsort(keys, kind="stable")
    first = np.flatnonzero(np.diff(keys[order], prepend=-1))
    sums = np.add.reduceat(probs[order].astype(np.float64), first) if len(first) else np.zeros(0)
    keys = keys[order][first][sums > 0]
    sums = sums[sums > 0]
    positions = keys >> 32
    order = np.lexsort((keys, -sums, positions))
    counts = np.bincount(positions, minlength=len(offsets) - 1)
    return running_sums(counts), (keys[order] & 0xFFFFFFFF).astype(np.int32), sums[order]
