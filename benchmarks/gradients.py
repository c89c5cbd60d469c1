"""The gradient of a student's parameters on fixed held-out positions, in float32, under any target.

Shapes: N positions of a padded batch row-major, P of them with a target, V ids.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.captured import CACHE
from benchmarks.demo_student import demo_student
from benchmarks.dense import full_divergence
from benchmarks.estimates import angle_degrees
from benchmarks.replay import replayed_teacher
from benchmarks.sample import captured, in_batches, padded_ids, sequences_of, single_windows
from benchmarks.target_rows import target_rows
from logitlake.pipeline.evaluation.evaluate import load_student
from logitlake.pipeline.reading.batches import make_batch
from logitlake.pipeline.targets.sparsifiers import Sparsifier
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.pipeline.training.model_loss import LossSettings, model_loss
from logitlake.pipeline.training.output_layer import ModelParts, take_apart
from logitlake.storage.identity import digest

_BATCH_TOKENS = 1024


class HeldOutGradient:
    """Gradients on `n_positions` held-out positions: windows by hash, exactly so many targets of them."""

    def __init__(self, n_positions: int) -> None:
        self.n_positions = n_positions
        rows = single_windows(captured(held_out=True), n_positions)
        self._sequences = sequences_of(rows, n_positions)
        self._teacher = replayed_teacher(self._sequences)
        self._student = demo_student()

    def compare(self, sparsifier: Sparsifier, seed: int) -> dict[str, float]:
        """Angle in degrees to the gradient of full distributions, and the ratio of norms, of one draw of targets."""
        full = self.full()
        parts = take_apart(load_student(self._student))
        sparse = self._gradient(parts, partial(self._sparse_loss, sparsifier, seed))
        dot, norm, reference = 0.0, 0.0, 0.0
        for name, full_grad in full.items():
            sparse_1d, full_1d = sparse[name].view(-1), full_grad.view(-1)
            dot += float(torch.dot(sparse_1d, full_1d))
            norm += float(torch.dot(sparse_1d, sparse_1d))
            reference += float(torch.dot(full_1d, full_1d))
        norm, reference = np.sqrt(norm), np.sqrt(reference)
        return {"angle_deg": angle_degrees(dot, norm, reference), "norm_ratio": norm / reference}

    def full(self) -> dict[str, torch.Tensor]:
        """The gradient of full distributions by parameter, computed once."""
        ids = (sequence.input_ids.tobytes() for sequence in self._sequences)
        weights = (self._student / "logitlake.json").read_bytes()
        path = CACHE / f"gradient-{digest(weights, str(self.n_positions).encode(), *ids)[:16]}.pt"
        if not path.exists():
            parts = take_apart(load_student(self._student))
            staged = path.with_suffix(".tmp")
            torch.save(self._gradient(parts, self._full_loss), staged)
            staged.rename(path)
        return dict(torch.load(path, mmap=True, weights_only=True))

    def _gradient(
        self, parts: ModelParts, loss: Callable[[ModelParts, Sequence[TokenSequence]], torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        parts.model.requires_grad_(True)
        for batch in self._batches():
            loss(parts, batch).backward()
        parameters = parts.model.named_parameters()
        return {name: p.grad.contiguous() for name, p in parameters if p.grad is not None}

    def _batches(self) -> Iterator[list[TokenSequence]]:
        for batch in in_batches(self._sequences, _BATCH_TOKENS):
            if any(sequence.has_target.any() for sequence in batch):
                yield batch

    def _sparse_loss(
        self, sparsifier: Sparsifier, seed: int, parts: ModelParts, batch: Sequence[TokenSequence]
    ) -> torch.Tensor:
        """The loss of training on targets that were encoded as rows and decoded to a batch."""
        rows = target_rows(self._teacher, batch, sparsifier, seed=seed)
        return model_loss(parts, make_batch(rows), LossSettings(), divisor=self.n_positions)

    def _full_loss(self, parts: ModelParts, batch: Sequence[TokenSequence]) -> torch.Tensor:
        hidden_BTD = parts.hidden(padded_ids(batch))
        hidden_PD = torch.cat(
            [row_TD[np.flatnonzero(s.has_target)] for s, row_TD in zip(batch, hidden_BTD, strict=True)]
        )
        assert parts.weight is not None
        positions_P = self._teacher.positions([s.input_ids for s in batch], [s.has_target for s in batch])

        def teacher_logits(begin: int, end: int) -> torch.Tensor:
            return self._teacher.logits(positions_P[begin:end])

        return full_divergence(hidden_PD, parts.weight, teacher_logits, divisor=self.n_positions)
