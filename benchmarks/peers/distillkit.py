"""DistillKit's compressed log-probabilities (arcee-ai/DistillKit, README: recommended and budget configurations).

The likeliest `exact_k` as bfloat16, the others as a least-squares fit over the rank in float32 coefficients, ids packed
to as many bits as the vocabulary needs. Rows are fixed in size. Shapes: P positions, k ids each, T terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.stored import Stored


@dataclass(frozen=True, slots=True)
class Layout:
    """`k` ids, `exact_k` of them exact; the fit has the powers `powers` of the rank, and its square root."""

    k: int
    exact_k: int
    powers: Sequence[int]

    def bytes_per_position(self, vocabulary: int) -> float:
        """What one position takes, whatever it holds."""
        ids = -(-self.k * (vocabulary - 1).bit_length() // 8)
        return 2 * self.exact_k + 4 * (len(self.powers) + 1) + ids


RECOMMENDED = Layout(k=128, exact_k=16, powers=(0, 1, 2, 3, 4))
BUDGET = Layout(k=50, exact_k=1, powers=(0, 1))


def distillkit(layout: Layout, logprobs_Pk: NDArray[np.float32], vocabulary: int) -> Stored:
    """`logprobs_Pk` falling, at least `layout.k` of them."""
    values_Pk = logprobs_Pk[:, : layout.k]
    exact = torch.from_numpy(np.ascontiguousarray(values_Pk[:, : layout.exact_k])).bfloat16().float().numpy()
    rest_Pr = values_Pk[:, layout.exact_k :].astype(np.float64)
    rank_r = np.arange(rest_Pr.shape[1], dtype=np.float64)
    terms_rT = np.stack([*(rank_r**power for power in layout.powers), np.sqrt(rank_r)], axis=1)
    coefficients_TP = np.linalg.lstsq(terms_rT, rest_Pr.T)[0].astype(np.float32)
    fitted_Pr = (terms_rT.astype(np.float32) @ coefficients_TP).T
    n_bytes = len(values_Pk) * layout.bytes_per_position(vocabulary)
    # A fit may rise above 0 at its ends; a probability is at most 1.
    return Stored(n_bytes, np.exp(np.minimum(np.concatenate([exact, fitted_Pr], axis=1), 0).astype(np.float64)))
