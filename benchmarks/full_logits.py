"""Training on the teacher's full distributions: the upper bound that a cache is judged by.

The teacher's hidden states are kept, so an epoch costs its output layer alone. The rows carry, in place of a target,
the place of each position among the kept ones.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import TrainingArguments

from benchmarks.dense import full_divergence
from benchmarks.gradients import origin_of
from benchmarks.replay import ReplayedTeacher
from logitlake.pipeline.reading.reader import RowSetReader
from logitlake.pipeline.targets.encoding import encode_rows
from logitlake.pipeline.targets.sparsifiers.blocks import Statistics
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.pipeline.training.distillation_trainer import DistillationTrainer
from logitlake.pipeline.training.model_loss import LossSettings
from logitlake.pipeline.training.output_layer import ModelParts


def place_rows(sequences: Sequence[TokenSequence], teacher: ReplayedTeacher) -> pa.Table:
    """Rows whose only entry at a position is where the teacher's hidden state of that position is kept."""
    places = teacher.positions([s.input_ids for s in sequences], [s.has_target for s in sequences])
    offsets = np.arange(len(places) + 1, dtype=np.int64)
    ones = np.ones(len(places), np.uint16)
    targets = CodedTargets(id_offsets=offsets, ids=places.astype(np.int32), code_offsets=offsets, codes=ones, levels=1)
    nothing = np.zeros(len(places))
    return encode_rows(sequences, targets, Statistics(entropy=nothing, nll=nothing), origin_of(sequences))


class FullLogitsTrainer(DistillationTrainer):
    """A DistillationTrainer of rows that `place_rows` made, with the dense loss as the model's forward."""

    def __init__(self, model: Any, args: TrainingArguments, *, reader: RowSetReader, teacher: ReplayedTeacher) -> None:
        super().__init__(model, args, reader=reader, loss=LossSettings())
        # A function, not a method: whatever wraps a model's forward binds it to the model again.
        model.forward = partial(_full_loss, self.parts, teacher)


def _full_loss(
    parts: ModelParts,
    teacher: ReplayedTeacher,
    *,
    input_ids: torch.Tensor,
    target_offsets: torch.Tensor,
    target_ids: torch.Tensor,
    divisor: float | torch.Tensor,
    **_: torch.Tensor,
) -> torch.Tensor:
    places = target_ids.numpy()
    hidden_PD = parts.hidden(input_ids).flatten(0, 1)[target_offsets.diff() > 0]
    assert parts.weight is not None
    return full_divergence(
        hidden_PD,
        parts.weight,
        lambda begin, end: teacher.logits(places[begin:end]),
        divisor=divisor,
    )
