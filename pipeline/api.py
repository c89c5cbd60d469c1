"""The stable API behind `import logitlake`, whose docstring shows its use: the reader of a row set, and the loss."""

from logitlake.pipeline.reading.batches import SparseTargets, TargetBatch, make_batch
from logitlake.pipeline.reading.blocks import Fetch, lake_fetch
from logitlake.pipeline.reading.open_rows import Rows, open_rows
from logitlake.pipeline.reading.plain_rows import collate_rows
from logitlake.pipeline.reading.reader import RowSetReader
from logitlake.pipeline.targets.decoding import decode_targets
from logitlake.pipeline.training.losses import sparse_divergence, sparse_divergence_of_logits, sparse_divergence_through
from logitlake.pipeline.training.model_loss import LossSettings, attach_loss, batch_inputs, detach_loss, model_loss
from logitlake.pipeline.training.output_layer import ModelParts, take_apart
from logitlake.storage.row_sets.row_set import RowSet

__all__ = [
    "Fetch",
    "LossSettings",
    "ModelParts",
    "RowSet",
    "RowSetReader",
    "Rows",
    "SparseTargets",
    "TargetBatch",
    "attach_loss",
    "batch_inputs",
    "collate_rows",
    "decode_targets",
    "detach_loss",
    "lake_fetch",
    "make_batch",
    "model_loss",
    "open_rows",
    "sparse_divergence",
    "sparse_divergence_of_logits",
    "sparse_divergence_through",
    "take_apart",
]
