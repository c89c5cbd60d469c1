"""Block sums of a chunk on the host, and a second look inside only the few blocks that matter: what NumPy draws from.

Only block sums and single blocks ever leave the device.

Shapes: P positions, V ids, B blocks per row, K = BLOCK ids per block, M blocks looked into, R rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from logitlake.pipeline.targets.sparsifiers.block_sums import BLOCK
from logitlake.pipeline.targets.sparsifiers.scan import Scan
from logitlake.storage.errors import SettingsError


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """Of P positions, in nats at temperature 1: entropy, and -logprob of the real next token (both float64[P]).

    `entropy` is None where the teacher gives only its most probable ids.
    """

    entropy: NDArray[np.float64] | None
    nll: NDArray[np.float64]


class Blocks:
    """Block sums of `softmax(logits / temperature)` before normalisation, and access to single blocks."""

    def __init__(self, logits_PV: torch.Tensor, temperature: float = 1.0) -> None:
        """One pass over `logits_PV` (float16, bfloat16 or float32, on any device).

        Raises SettingsError for NaN, +inf, or a row that is -inf throughout: the teacher does not work at this dtype.
        """
        self._take(Scan(logits_PV, temperature))

    @classmethod
    def of(cls, scan: Scan) -> "Blocks":
        """The blocks of a scan that was made before; the same errors."""
        blocks = cls.__new__(cls)
        blocks._take(scan)
        return blocks

    def _take(self, scan: Scan) -> None:
        require_finite(bool(scan.is_finite))
        self._scan = scan
        self.n_positions, self.n_blocks, self.vocabulary = scan.n_positions, scan.n_blocks, scan.vocabulary
        self.sums_PB: NDArray[np.float64] = scan.sums_PB.cpu().numpy().astype(np.float64)
        self.totals_P: NDArray[np.float64] = scan.totals_P.cpu().numpy()

    def entropy(self) -> NDArray[np.float64]:
        """Entropy `float64[P]` in nats of the distribution at the temperature of these blocks."""
        entropy_P: NDArray[np.float64] = self._scan.entropy().cpu().numpy()
        return entropy_P

    def negative_logprobs(self, ids_P: NDArray[np.integer]) -> NDArray[np.float64]:
        """-logprob `float64[P]` in nats of one id per position; infinity where the id has no probability."""
        ids = torch.from_numpy(np.ascontiguousarray(ids_P, np.int64)).to(self._scan.logits_PV.device)
        nll_P: NDArray[np.float64] = self._scan.negative_logprobs(ids).cpu().numpy()
        return nll_P

    def look(self, rows_M: NDArray[np.int64], blocks_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """Weights `float32[M, K]` inside the named blocks, 0 past the vocabulary."""
        logits_PV = self._scan.logits_PV
        rows_M1 = torch.from_numpy(rows_M).to(logits_PV.device)[:, None]
        blocks_M1 = torch.from_numpy(blocks_M).to(logits_PV.device)[:, None]
        if self.vocabulary % BLOCK == 0 and logits_PV.is_contiguous():
            x_MK = logits_PV.view(-1, BLOCK)[(rows_M1 * self.n_blocks + blocks_M1)[:, 0]]
            return self._scan.weights(rows_M1, x_MK).cpu().numpy()
        ids_MK = blocks_M1 * BLOCK + torch.arange(BLOCK, device=logits_PV.device)
        e_MK = self._scan.weights(rows_M1, logits_PV[rows_M1, ids_MK.clamp(max=self.vocabulary - 1)])
        return e_MK.masked_fill_(ids_MK >= self.vocabulary, 0.0).cpu().numpy()

    def largest(self, k: int, rows_R: NDArray[np.int64] | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids and weights `[R, k]` of the k largest of the named rows (none: all), descending; ties by ascending id.

        So of several equally probable ids that could be the last ones, the lowest are taken.
        """
        logits_RV, k = self._scan.logits_PV, min(k, self.vocabulary)
        rows = torch.from_numpy(np.arange(self.n_positions) if rows_R is None else rows_R).to(logits_RV.device)
        if rows_R is not None:
            logits_RV = logits_RV[rows]
        # One more than asked for tells whether the last one was a choice among equals.
        x_Rk, ids_Rk = torch.topk(logits_RV, min(k + 1, self.vocabulary), dim=1)
        if k < self.vocabulary:
            last_R, next_R = x_Rk[:, k - 1], x_Rk[:, k]
            x_Rk, ids_Rk = x_Rk[:, :k].contiguous(), ids_Rk[:, :k].contiguous()
            # Ids of probability 0 are no heads, whichever they are.
            tied_T = torch.nonzero((last_R == next_R) & (last_R > -torch.inf))[:, 0]
            if len(tied_T):
                ids_Rk[tied_T] = _lowest_of_equals(logits_RV[tied_T], x_Rk[tied_T], ids_Rk[tied_T])
        weights_Rk = self._scan.weights(rows[:, None], x_Rk).cpu().numpy().astype(np.float64)
        ids = ids_Rk.cpu().numpy()
        order = np.lexsort((ids, -weights_Rk), axis=1)
        return np.take_along_axis(ids, order, 1), np.take_along_axis(weights_Rk, order, 1)

    def rest(self, rows_H: NDArray[np.int64], ids_H: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weight `float64[P]` of every id but the named ones, added up from what is left, never a difference."""
        cells_H = rows_H * self.n_blocks + ids_H // BLOCK
        cells_M, inverse_H = np.unique(cells_H, return_inverse=True)
        rows_M, blocks_M = np.divmod(cells_M, self.n_blocks)
        weights_MK = self.look(rows_M, blocks_M)
        weights_MK[inverse_H, ids_H % BLOCK] = 0
        sums_PB = self.sums_PB.copy()
        sums_PB[rows_M, blocks_M] = weights_MK.sum(axis=1, dtype=np.float64)
        return sums_PB.sum(axis=1)


def _lowest_of_equals(logits_TV: torch.Tensor, x_Tk: torch.Tensor, ids_Tk: torch.Tensor) -> torch.Tensor:
    """The ids of the k largest, descending, with the lowest of those that equal the last one in their places."""
    last_T1 = x_Tk[:, -1:]
    equal_T2 = torch.nonzero(logits_TV == last_T1)
    begins_T = torch.searchsorted(equal_T2[:, 0].contiguous(), torch.arange(len(x_Tk), device=x_Tk.device))
    n_above_T1 = (x_Tk > last_T1).sum(dim=1, keepdim=True)
    places_Tk = begins_T[:, None] - n_above_T1 + torch.arange(x_Tk.shape[1], device=x_Tk.device)
    return torch.where(x_Tk > last_T1, ids_Tk, equal_T2[:, 1][places_Tk.clamp(min=0)])


def require_finite(is_finite: bool) -> None:
    """SettingsError unless the logits were finite; see Scan.is_finite."""
    if not is_finite:
        raise SettingsError(
            "teacher: expected finite logits, found NaN or infinity; "
            "load it with teacher.dtype float32, or check its weights"
        )
