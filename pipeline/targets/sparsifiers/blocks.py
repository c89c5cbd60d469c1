"""One pass over a chunk of logits that leaves sums by block, and a second look inside only the few blocks that matter.

The weight of an id is 2^((x - max x) · log2(e) / T), its probability that over the sum of the row. A row of V ids is
cut into blocks of BLOCK ids; only block sums and single blocks ever leave the device, and no [batch, length, V] float32
tensor exists. exp2 because it vectorises on every CPU where torch's exp does not; both are within 1 ulp.

Shapes: P positions, V ids, B blocks per row, K = BLOCK ids per block, M blocks looked into, C positions per slice.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from logitlake.pipeline.targets.sparsifiers.block_sums import BLOCK
from logitlake.storage.errors import SettingsError

_LOG2_E = 1 / math.log(2)
# A slice fits the cache of a CPU core during five passes, and takes little of a GPU's memory.
_CPU_SLICE = 1 << 19
_DEVICE_SLICE = 1 << 26
# Below so many logits a thread takes longer to start than to do its share.
_WORTH_THREADS = 1 << 22


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
        self.logits_PV = logits_PV
        self.n_positions, self.vocabulary = logits_PV.shape
        self.n_blocks = -(-self.vocabulary // BLOCK)
        self._factor = _LOG2_E / temperature
        device, shape = logits_PV.device, (self.n_positions, self.n_blocks)
        sums_PB = torch.empty(shape, dtype=torch.float32, device=device)
        products_P = torch.empty(self.n_positions, dtype=torch.float32, device=device)
        self._shift_P = torch.empty(self.n_positions, dtype=torch.float32, device=device)
        self._scan(sums_PB, products_P)
        self.sums_PB: NDArray[np.float64] = sums_PB.cpu().numpy().astype(np.float64)
        self.totals_P: NDArray[np.float64] = self.sums_PB.sum(axis=1)
        self._products_P = products_P.cpu().numpy().astype(np.float64)
        if not (np.isfinite(self.totals_P).all() and np.isfinite(self._products_P).all()):
            raise SettingsError(
                "teacher: expected finite logits, found NaN or infinity; "
                "load it with teacher.dtype float32, or check its weights"
            )

    def _scan(self, sums_PB: torch.Tensor, products_P: torch.Tensor) -> None:
        """Rows are shared out among threads that run torch on one core each.

        torch's own threads wait for each other after every small operation: on a busy machine this took ten times the
        processor time.
        """
        threads = torch.get_num_threads() if self.logits_PV.device.type == "cpu" else 1
        if threads == 1 or self.logits_PV.numel() < _WORTH_THREADS:
            self._scan_rows(sums_PB, products_P, 0, self.n_positions)
        else:
            bounds = np.linspace(0, self.n_positions, threads + 1).astype(int).tolist()
            try:
                with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                    pieces = [
                        pool.submit(self._scan_rows, sums_PB, products_P, begin, end) for begin, end in pairwise(bounds)
                    ]
                    for piece in pieces:
                        piece.result()
            finally:
                # A thread that sets its number of threads also changes the default of threads started later.
                torch.set_num_threads(threads)
        if not bool(torch.isfinite(products_P).all()):
            self._scan_products_again(products_P)

    @torch.inference_mode()
    def _scan_rows(self, sums_PB: torch.Tensor, products_P: torch.Tensor, first: int, last: int) -> None:
        budget = _CPU_SLICE if self.logits_PV.device.type == "cpu" else _DEVICE_SLICE
        step = max(1, budget // self.vocabulary)
        width = self.n_blocks * BLOCK
        z_CW = torch.empty(min(step, last - first), width, dtype=torch.float32, device=self.logits_PV.device)
        e_CW = torch.empty_like(z_CW)
        for begin in range(first, last, step):
            end = min(begin + step, last)
            z_CV, e_CV = z_CW[: end - begin, : self.vocabulary], e_CW[: end - begin, : self.vocabulary]
            e_CV.copy_(self.logits_PV[begin:end])
            shift_C = e_CV.amax(dim=1).mul_(-self._factor)
            torch.add(shift_C[:, None], e_CV, alpha=self._factor, out=z_CV)
            torch.exp2(z_CV, out=e_CV)
            # Past the vocabulary: no weight.
            e_CW[: end - begin, self.vocabulary :] = 0
            torch.sum(e_CW[: end - begin].view(end - begin, self.n_blocks, BLOCK), dim=2, out=sums_PB[begin:end])
            products_P[begin:end] = torch.linalg.vecdot(e_CV, z_CV)
            self._shift_P[begin:end] = shift_C

    def _scan_products_again(self, products_P: torch.Tensor) -> None:
        """0 · -inf is NaN, but p · log p is 0 at p = 0: the rows with -inf logits once more, bounded below."""
        for row in torch.nonzero(~torch.isfinite(products_P)).flatten().tolist():
            z_V = self.logits_PV[row].float() * self._factor + self._shift_P[row]
            products_P[row] = torch.dot(torch.exp2(z_V), z_V.clamp(min=-1000.0))

    def entropy(self) -> NDArray[np.float64]:
        """Entropy `float64[P]` in nats of the distribution at the temperature of these blocks."""
        bits_P = np.log2(self.totals_P) - self._products_P / self.totals_P
        return np.maximum(bits_P, 0.0) / _LOG2_E

    def negative_logprobs(self, ids_P: NDArray[np.integer]) -> NDArray[np.float64]:
        """-logprob `float64[P]` in nats of one id per position; infinity where the id has no probability."""
        index_P1 = torch.from_numpy(np.ascontiguousarray(ids_P, np.int64)).to(self.logits_PV.device)[:, None]
        x_P = self.logits_PV.gather(1, index_P1)[:, 0].float()
        z_P = (x_P * self._factor + self._shift_P).cpu().numpy().astype(np.float64)
        return np.maximum(np.log2(self.totals_P) - z_P, 0.0) / _LOG2_E

    def look(self, rows_M: NDArray[np.int64], blocks_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """Weights `float32[M, K]` inside the named blocks, 0 past the vocabulary."""
        device = self.logits_PV.device
        rows = torch.from_numpy(rows_M).to(device)
        blocks = torch.from_numpy(blocks_M).to(device)
        shift_M1 = self._shift_P[rows][:, None]
        if self.vocabulary % BLOCK == 0 and self.logits_PV.is_contiguous():
            x_MK = self.logits_PV.view(-1, BLOCK)[rows * self.n_blocks + blocks].float()
            return torch.exp2(torch.add(shift_M1, x_MK, alpha=self._factor)).cpu().numpy()
        ids_MK = blocks[:, None] * BLOCK + torch.arange(BLOCK, device=device)
        x_MK = self.logits_PV[rows[:, None], ids_MK.clamp(max=self.vocabulary - 1)].float()
        e_MK = torch.exp2(torch.add(shift_M1, x_MK, alpha=self._factor))
        return e_MK.masked_fill_(ids_MK >= self.vocabulary, 0.0).cpu().numpy()

    def weights_at(self, rows_R: torch.Tensor, ids_Rk: torch.Tensor) -> NDArray[np.float64]:
        """Weights `float64[R, k]` of k ids in each named row (tensors on the logits' device)."""
        x_Rk = self.logits_PV[rows_R[:, None], ids_Rk].float()
        e_Rk = torch.exp2(torch.add(self._shift_P[rows_R][:, None], x_Rk, alpha=self._factor))
        return e_Rk.cpu().numpy().astype(np.float64)

    def largest(self, k: int, rows_R: NDArray[np.int64] | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids and weights `[R, k]` of the k largest of the named rows (none: all), descending; ties by ascending id."""
        rows_R = np.arange(self.n_positions) if rows_R is None else rows_R
        rows = torch.from_numpy(rows_R).to(self.logits_PV.device)
        ids_Rk = torch.topk(self.logits_PV[rows], min(k, self.vocabulary), dim=1, sorted=False).indices
        weights_Rk = self.weights_at(rows, ids_Rk)
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
