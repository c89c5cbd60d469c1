"""The stable import path for people with a training loop of their own: the reader of a row set, and the loss.

    from logitlake.pipeline.api import LossSettings, model_loss, open_rows, take_apart

    rows = open_rows("lake", where="mean_entropy > 1", batch_sequences=8)
    parts = take_apart(model)
    for batch in rows.reader:
        loss = model_loss(parts, batch.to(device), LossSettings(temperature=rows.recipe["temperature"]))
        loss.backward()
        ...

`rows.reader.state_dict()` is what to keep in a checkpoint. Under DDP or FSDP use `attach_loss`, so that the loss is
made inside the wrapped module's forward. What stands in `__all__` keeps its name and its meaning over all 0.x versions.
"""

from logitlake.pipeline.reading.batches import SparseTargets, TargetBatch, make_batch
from logitlake.pipeline.reading.blocks import Fetch, lake_fetch
from logitlake.pipeline.reading.open_rows import Rows, open_rows
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
