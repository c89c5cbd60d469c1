"""Probabilities as multiples of 1/levels, rounded without bias: E[code / levels] = p exactly.

Systematic dithered rounding: with S_i = levels * (p_1 + … + p_i) and one uniform u per position,
code_i = floor(S_i + u) - floor(S_{i-1} + u). A telescoping sum, hence

- E[code_i] = levels * p_i, since E[floor(x + u)] = x;
- |code_i / levels - p_i| < 1 / levels;
- the codes of a position never sum above `levels`, and to within 1 of levels * Σp.

Shapes: P positions, E heads of all of them in CSR order (`offsets_P1` has P + 1 entries).
"""

import numpy as np
from numpy.typing import NDArray

from logitlake.pipeline.settings.target import MAX_LEVELS


def systematic_codes(
    head_weights_E: NDArray[np.floating],
    offsets_P1: NDArray[np.int64],
    rest_P: NDArray[np.float64],
    uniforms_P: NDArray[np.float64],
    levels: int,
) -> NDArray[np.uint16]:
    """Codes `uint16[E]` of heads whose probability is weight / (heads + rest of the position).

    `rest_P` is the weight of everything that is not a head, from its own sum: where it is exactly 0 the codes sum to
    exactly `levels`, whatever rounding did to the heads. Weights need no normalisation.
    """
    if not 0 < levels <= MAX_LEVELS:
        raise ValueError(f"levels: expected 1 to {MAX_LEVELS}, found {levels}")
    counts_P = np.diff(offsets_P1)
    sums_E1 = np.concatenate(([0.0], np.cumsum(head_weights_E, dtype=np.float64)))
    begins_P, ends_P = sums_E1[offsets_P1[:-1]], sums_E1[offsets_P1[1:]]
    scale_P = levels / np.maximum(ends_P - begins_P + rest_P, np.finfo(np.float64).tiny)
    scaled_E = (sums_E1[1:] - np.repeat(begins_P, counts_P)) * np.repeat(scale_P, counts_P)
    last_E = offsets_P1[1:][counts_P > 0] - 1
    scaled_E[last_E] = np.where(rest_P[counts_P > 0] <= 0, levels, scaled_E[last_E])
    # Just below `levels`, adding u may round up to levels + 1: hence the minimum.
    reached_E = np.minimum(np.floor(scaled_E + np.repeat(uniforms_P, counts_P)), levels).astype(np.int64)
    before_E = np.concatenate(([0], reached_E[:-1]))
    before_E[offsets_P1[:-1][counts_P > 0]] = 0
    return (reached_E - before_E).astype(np.uint16)


def code_sums(codes_E: NDArray[np.uint16], offsets_P1: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of the codes of each position, `int64[P]`."""
    sums_E1 = np.concatenate(([0], np.cumsum(codes_E, dtype=np.int64)))
    return sums_E1[offsets_P1[1:]] - sums_E1[offsets_P1[:-1]]
