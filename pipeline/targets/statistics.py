"""Per-position statistics as stored: entropy of the teacher and surprise at the real next token, both at temperature 1.

Stored in steps of 1/32 nat, rounded to nearest and clipped at the top; the means of a sequence are taken before
rounding. P positions with a target.
"""

import numpy as np
from numpy.typing import NDArray

from logitlake.storage.lake.schema import STATISTIC_STEP

_TOP = np.iinfo(np.uint16).max


def statistic_codes(nats_P: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Codes `uint16[P]` of non-negative values in nats: off by at most half a step, except above 2,047 nats.

    Infinity (the teacher gave the real next token no probability) becomes the top code. ValueError for NaN.
    """
    if np.isnan(nats_P).any():
        raise ValueError("statistics: NaN has no code")
    return np.clip(np.rint(nats_P / STATISTIC_STEP), 0, _TOP).astype(np.uint16)


def segment_means(values_P: NDArray[np.float64], counts_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of each run of `counts_N[i]` values; NaN where a run is empty. An infinite value makes its mean infinite."""
    offsets = np.concatenate(([0], np.cumsum(counts_N)))
    means = np.full(len(counts_N), np.nan)
    filled = counts_N > 0
    if filled.any():
        means[filled] = np.add.reduceat(values_P, offsets[:-1][filled]) / counts_N[filled]
    return means
