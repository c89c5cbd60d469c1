"""Targets from the log-probs of the most probable ids alone, as a teacher gives them that is behind a server.

The residual mass is known, who has it is not: such targets are those of the sparsifier `top_k`, and biased. The draws
are those of `top_k` over whole distributions: the same log-probs and uniforms give the same codes.

Shapes: P positions, k ids of each at most, in descending order of their log-prob.
"""

import numpy as np
from numpy.typing import NDArray

from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.targets.sparsifiers.top_k import coded_beside

# float32 log-probs of a server, rounded again in its JSON.
_MASS_ROUNDING = 1e-3


def targets_of_logprobs(
    ids_Pk: NDArray[np.int64],
    logprobs_Pk: NDArray[np.float64],
    uniforms_PS: NDArray[np.float64],
    *,
    levels: int,
    vocabulary: int,
) -> CodedTargets:
    """Heads with dithered codes. An entry of -inf stands for no id; `uniforms_PS` has one uniform for the rounding.

    Raises ValueError for a NaN, and for probabilities of a position that sum above 1 by more than rounding.
    """
    probs_Pk = np.exp(logprobs_Pk)
    sums_P = probs_Pk.sum(axis=1)
    if not (sums_P <= 1 + _MASS_ROUNDING).all():
        raise ValueError(f"log-probs: expected probabilities that sum to 1 at most, found {float(sums_P.max()):.6g}")
    is_head_Pk = probs_Pk > 0
    # What lies beyond the heads is a difference here, right to the rounding of the log-probs; with every id it is 0.
    rest_P = np.where(is_head_Pk.sum(axis=1) < vocabulary, np.maximum(1 - sums_P, 0.0), 0.0)
    return coded_beside(rest_P, ids_Pk, probs_Pk, is_head_Pk, uniforms_PS[:, 0], levels)
