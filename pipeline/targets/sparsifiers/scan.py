"""One pass over a chunk of logits, on the device where they are: sums by block, and the statistics of each row.

The weight of an id is 2^((x - max x) · log2(e) / T), its probability that over the sum of the row. A row of V ids is
cut into blocks of BLOCK ids, and no [batch, length, V] float32 tensor exists. exp2 because it vectorises on every CPU
where torch's exp does not; both are within 1 ulp. On a GPU nothing here makes the host wait.

Shapes: P positions, V ids, B blocks per row, K = BLOCK ids per block, W = B · K ids with padding, C rows per slice.
"""

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from types import ModuleType

import numpy as np
import torch

from logitlake.pipeline.targets import on_device
from logitlake.pipeline.targets.sparsifiers.block_sums import BLOCK

log = logging.getLogger(__name__)

_LOG2_E = 1 / math.log(2)
# A slice fits the cache of a CPU core during five passes, and takes little of a GPU's memory.
_CPU_SLICE = 1 << 18
_DEVICE_SLICE = 1 << 26
# Below so many logits a thread takes longer to start than to do its share.
_WORTH_THREADS = 1 << 22
# On a CPU torch computes what does not fill a vector by other code, with other last bits: equal logits would differ.
_VECTOR = 32


@cache
def _fused_scan() -> ModuleType | None:
    """The same pass as one compiled loop, where numba is installed."""
    if find_spec("numba") is None:
        return None
    try:
        fused = import_module(f"{__package__}.fused_scan")
        # numba refuses a newer NumPy than it knows, a library may not load, its files may be damaged, or the disk full.
        # Both dtypes are compiled here.
        for dtype in (torch.float32, torch.bfloat16):
            results = (torch.empty(1, 1), torch.empty(1), torch.empty(1))
            fused.scan_rows(torch.zeros(1, 2, dtype=dtype), 1.0, *results)
    except Exception as error:
        log.warning(
            "numba is installed but can't be used (%s): the pass over the logits takes three times as long", error
        )
        return None
    return fused


def _double(tensor: torch.Tensor) -> torch.Tensor:
    stays = tensor.device.type in {"cpu", *on_device.DEVICE_TYPES}
    return tensor.double() if stays else tensor.cpu().double()


class Scan:
    """Block sums of `softmax(logits / temperature)` before normalisation, and the statistics of each row.

    `sums_PB` float32, `totals_P` their sums in float64, `is_finite` a single bool: all on the device of the logits.
    For a device without float64, such as Apple's, what is in float64 is on the CPU.
    """

    def __init__(self, logits_PV: torch.Tensor, temperature: float = 1.0) -> None:
        """One pass over `logits_PV` (float16, bfloat16 or float32, on any device)."""
        self.logits_PV = logits_PV
        self.n_positions, self.vocabulary = logits_PV.shape
        self.n_blocks = -(-self.vocabulary // BLOCK)
        self._factor = _LOG2_E / temperature
        floats = {"dtype": torch.float32, "device": logits_PV.device}
        self.sums_PB = torch.empty(self.n_positions, self.n_blocks, **floats)
        self._products_P = torch.empty(self.n_positions, **floats)
        self._shift_P = torch.empty(self.n_positions, **floats)
        self._run()
        self.totals_P = _double(self.sums_PB).sum(dim=1)
        # False for NaN, +inf, or a row that is -inf throughout.
        # A total of 0 is that of logits so large that they overflow.
        self.is_finite = (torch.isfinite(self.totals_P) & (self.totals_P > 0)).all()

    def _run(self) -> None:
        """Rows are shared out among threads that run torch on one core each.

        torch's own threads wait for each other after every small operation: on a busy machine this took ten times the
        processor time.
        """
        threads = torch.get_num_threads() if self.logits_PV.device.type == "cpu" else 1
        if threads == 1 or self.logits_PV.numel() < _WORTH_THREADS:
            self._scan_rows(0, self.n_positions)
            return
        bounds = np.linspace(0, self.n_positions, threads + 1).astype(int).tolist()
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for piece in [pool.submit(self._scan_rows, begin, end) for begin, end in pairwise(bounds)]:
                    piece.result()
        finally:
            # A thread that sets its number of threads also changes the default of threads started later.
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def _scan_rows(self, first: int, last: int) -> None:
        fused = _fused_scan()
        if fused is not None and fused.fits(self.logits_PV) and self.vocabulary:
            rows = slice(first, last)
            results = (tensor[rows] for tensor in (self.sums_PB, self._products_P, self._shift_P))
            fused.scan_rows(self.logits_PV[rows], self._factor, *results)
            return
        elements = _CPU_SLICE if self.logits_PV.device.type == "cpu" else _DEVICE_SLICE
        step = min(max(1, elements // self.vocabulary), max(last - first, 1))
        # Past the vocabulary: no weight.
        e_CW = torch.zeros(step, self.n_blocks * BLOCK, dtype=torch.float32, device=self.logits_PV.device)
        z_CV = torch.empty(step, self.vocabulary, dtype=torch.float32, device=self.logits_PV.device)
        e_CV, e_CBK = e_CW[:, : self.vocabulary], e_CW.view(step, self.n_blocks, BLOCK)
        for begin in range(first, last, step):
            end = min(begin + step, last)
            if end - begin < step:
                z_CV, e_CV, e_CBK = (tensor[: end - begin] for tensor in (z_CV, e_CV, e_CBK))
            e_CV.copy_(self.logits_PV[begin:end])
            shift_C = e_CV.amax(dim=1).mul_(-self._factor)
            torch.add(shift_C[:, None], e_CV, alpha=self._factor, out=z_CV)
            torch.exp2(z_CV, out=e_CV)
            torch.sum(e_CBK, dim=2, out=self.sums_PB[begin:end])
            # 0 · -inf is NaN, but p · log p is 0 at p = 0. A NaN of the logits themselves is in the totals too.
            torch.nansum(z_CV.mul_(e_CV), dim=1, out=self._products_P[begin:end])
            self._shift_P[begin:end] = shift_C

    def rows(self, begin: int, end: int) -> "Scan":
        """The part of this scan that belongs to some of its rows; `is_finite` remains that of the whole."""
        part = copy(self)
        for name in ("logits_PV", "sums_PB", "totals_P", "_products_P", "_shift_P"):
            setattr(part, name, getattr(self, name)[begin:end])
        part.n_positions = len(part.totals_P)
        return part

    def entropy(self) -> torch.Tensor:
        """Entropy `float64[P]` in nats of the distribution at the temperature of this scan."""
        bits_P = torch.log2(self.totals_P) - _double(self._products_P) / self.totals_P
        return bits_P.clamp(min=0.0) / _LOG2_E

    def negative_logprobs(self, ids_P: torch.Tensor) -> torch.Tensor:
        """-logprob `float64[P]` in nats of one id (int64) per position; infinity where the id has no probability."""
        x_P = self.logits_PV.gather(1, ids_P[:, None])[:, 0].float()
        z_P = _double(x_P * self._factor + self._shift_P)
        return (torch.log2(self.totals_P) - z_P).clamp(min=0.0) / _LOG2_E

    def weights(self, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Weights (float32) of logits `x` that stand in the rows `rows`, of a shape that broadcasts to that of `x`."""
        width = x.shape[-1]
        x = torch.nn.functional.pad(x.float(), (0, -width % _VECTOR))
        return torch.exp2(torch.add(self._shift_P[rows], x, alpha=self._factor))[..., :width]
