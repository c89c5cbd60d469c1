"""Training on the teacher's full distributions: the upper bound that a cache is judged by.

The teacher's hidden states are stored, so an epoch costs its output layer alone. The rows carry, in place of a target,
the index of each position among the stored hidden states.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import TrainingArguments

from benchmarks.dense import full_divergence
from benchmarks.replay import ReplayedTeacher
from benchmarks.target_rows import origin_of
from logitlake.pipeline.reading.reader import RowSetReader
from logitlake.pipeline.targets.encoding import encode_rows
from logitlake.pipeline.targets.sparsifiers.blocks import Statistics
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.pipeline.training.distillation_trainer import DistillationTrainer
from logitlake.pipeline.training.model_loss import LossSettings
from logitlake.pipeline.training.output_layer import ModelParts


def index_rows(sequences: Sequence[TokenSequence], teacher: ReplayedTeacher) -> pa.Table:
    """Rows whose only entry at a position is the index of the teacher's hidden state of that position."""
    indices = teacher.positions([s.input_ids for s in sequences], [s.has_target for s in sequences])
    offsets = np.arange(len(indices) + 1, dtype=np.int64)
    ones = np.ones(len(indices), np.uint16)
    targets = CodedTargets(id_offsets=offsets, ids=indices.astype(np.int32), code_offsets=offsets, codes=ones, levels=1)
    zeros = np.zeros(len(indices))
    return encode_rows(sequences, targets, Statistics(entropy=zeros, nll=zeros), origin_of(sequences))


class FullLogitsTrainer(DistillationTrainer):
    """A DistillationTrainer of rows that `index_rows` made, with the dense loss as the model's forward."""

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
    indices = target_ids.numpy()
    hidden_PD = parts.hidden(input_ids).flatten(0, 1)[target_offsets.diff() > 0]
    assert parts.weight is not None
    return full_divergence(
        hidden_PD,
        parts.weight,
        lambda begin, end: teacher.logits(indices[begin:end]),
        divisor=divisor,
    )
