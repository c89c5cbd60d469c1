"""Running sums over targets, for means, their standard errors and the calibration error.

Sums are float64 on the CPU, so that batching changes a metric by rounding only. Shapes: C targets at a time.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa
import torch

from logitlake.storage.students.losses import LOSSES

N_BINS = 15


class Tally:
    """Running sums of one model. Each metric is None until values were added for it."""

    def __init__(self) -> None:
        self.n = 0
        self.has_divergence = True
        self._losses: dict[int, float] = defaultdict(float)
        self._n_losses: dict[int, int] = defaultdict(int)
        self._agreed = 0
        self._compared = 0
        self._divergence: dict[int, float] = defaultdict(float)
        self._diverged: dict[int, int] = defaultdict(int)
        self._bins = torch.zeros(2, N_BINS, dtype=torch.float64)
        self._judged = 0

    def add_loss(self, losses_C: torch.Tensor, sequences_C: torch.Tensor) -> None:
        """Negative log-probabilities of the real next tokens, and the number of the sequence that each is of."""
        self.n += len(losses_C)
        _add_by_sequence(self._losses, self._n_losses, losses_C, sequences_C)

    def add_divergence(self, divergences_C: torch.Tensor, sequences_C: torch.Tensor) -> None:
        """KL per target, and the number of the sequence that each target is of."""
        _add_by_sequence(self._divergence, self._diverged, divergences_C, sequences_C)

    def add_agreement(self, agreed_C: torch.Tensor) -> None:
        """Whether the model's likeliest token is the teacher's."""
        self._agreed += int(agreed_C.sum())
        self._compared += len(agreed_C)

    def add_confidence(self, confidence_C: torch.Tensor, correct_C: torch.Tensor) -> None:
        """The probability of the model's likeliest token, and whether that is the real next token."""
        bins_C = (confidence_C.cpu().double() * N_BINS).long().clamp(0, N_BINS - 1)
        self._bins[0].index_add_(0, bins_C, confidence_C.cpu().double())
        self._bins[1].index_add_(0, bins_C, correct_C.cpu().double())
        self._judged += len(confidence_C)

    @property
    def loss(self) -> float:
        """Mean cross-entropy; NaN without any target."""
        return sum(self._losses.values()) / self.n if self.n else math.nan

    @property
    def losses(self) -> dict[int, tuple[int, float]]:
        """By sequence: how many targets, and the sum of their cross-entropy."""
        return {sequence: (self._n_losses[sequence], total) for sequence, total in self._losses.items()}

    @property
    def divergences(self) -> dict[int, float]:
        """By sequence: the sum of KL over its targets; empty if it can't be computed."""
        return dict(self._divergence) if self.has_divergence else {}

    @property
    def agreement(self) -> float | None:
        return self._agreed / self._compared if self._compared else None

    @property
    def calibration_error(self) -> float | None:
        """Σ over bins of |mean confidence - accuracy|, weighted by their share (Guo et al. 2017)."""
        if not self._judged:
            return None
        return float((self._bins[0] - self._bins[1]).abs().sum() / self._judged)

    @property
    def divergence(self) -> float | None:
        total = sum(self._diverged.values())
        return sum(self._divergence.values()) / total if total and self.has_divergence else None

    @property
    def divergence_stderr(self) -> float | None:
        """Standard error of the mean, targets of one sequence taken as dependent: √Σ(Σ(d-mean))² / n."""
        mean, total = self.divergence, sum(self._diverged.values())
        if mean is None or len(self._diverged) < 2:
            return None
        deviations = (self._divergence[key] - mean * count for key, count in self._diverged.items())
        clusters = len(self._diverged)
        return math.sqrt(sum(d * d for d in deviations) * clusters / (clusters - 1)) / total


def _add_by_sequence(
    sums: dict[int, float], counts: dict[int, int], values_C: torch.Tensor, sequences_C: torch.Tensor
) -> None:
    sequences, inverse, n_values = sequences_C.cpu().unique(return_inverse=True, return_counts=True)
    totals = torch.zeros(len(sequences), dtype=torch.float64).index_add_(0, inverse, values_C.cpu().double())
    for sequence, total, count in zip(sequences.tolist(), totals.tolist(), n_values.tolist(), strict=True):
        sums[sequence] += total
        counts[sequence] += count


def document_losses(doc_ids: Sequence[str], student: Tally, teacher: Tally) -> pa.Table:
    """A row per document (LOSSES), in order of the ids; `doc_ids[i]` is the document of sequence i.

    Both tallies must hold the same targets. `kl` is null if the divergence can't be computed.
    """
    teacher_losses, divergences = teacher.losses, student.divergences
    n_targets: dict[str, int] = {}
    sums: dict[str, list[float]] = {}
    for sequence, (n, loss) in student.losses.items():
        doc_id = doc_ids[sequence]
        n_targets[doc_id] = n_targets.get(doc_id, 0) + n
        parts = (loss, teacher_losses[sequence][1], divergences.get(sequence, 0.0))
        sums[doc_id] = [total + part for total, part in zip(sums.get(doc_id, [0.0] * 3), parts, strict=True)]
    ids = sorted(n_targets)
    return pa.table(
        [
            ids,
            [n_targets[doc_id] for doc_id in ids],
            [sums[doc_id][0] for doc_id in ids],
            [sums[doc_id][1] for doc_id in ids],
            [sums[doc_id][2] if student.has_divergence else None for doc_id in ids],
        ],
        schema=LOSSES,
    )
