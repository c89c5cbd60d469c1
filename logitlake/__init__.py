"""logitlake: run the teacher once, train students from its cached targets, ask the cache in SQL.

The stable Python API. With a training loop of your own:

    import logitlake

    rows = logitlake.open_rows("lake", where="mean_entropy > 1", batch_sequences=8)
    parts = logitlake.take_apart(model)
    settings = logitlake.LossSettings(temperature=rows.recipe["temperature"])
    for batch in rows.reader:
        loss = logitlake.model_loss(parts, batch.to(device), settings)
        loss.backward()
        ...

`rows.reader.state_dict()` is what to keep in a checkpoint. Under DDP or FSDP use `attach_loss`, so that the loss is
made inside the wrapped module's forward. Names in `__all__` keep their meaning over all 0.x versions; everything below
`logitlake.storage`, `logitlake.pipeline` and `logitlake.flows` may change.

Importing this package loads nothing else: a name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logitlake.pipeline.api import (
        Fetch,
        LossSettings,
        ModelParts,
        Rows,
        RowSet,
        RowSetReader,
        SparseTargets,
        TargetBatch,
        attach_loss,
        batch_inputs,
        collate_rows,
        decode_targets,
        detach_loss,
        lake_fetch,
        make_batch,
        model_loss,
        open_rows,
        sparse_divergence,
        sparse_divergence_of_logits,
        sparse_divergence_through,
        take_apart,
    )

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

# Names that need no loss, and so none of the seconds that importing the losses takes.
_READING = {
    "Rows": "logitlake.pipeline.reading.open_rows",
    "RowSetReader": "logitlake.pipeline.reading.reader",
    "collate_rows": "logitlake.pipeline.reading.plain_rows",
    "open_rows": "logitlake.pipeline.reading.open_rows",
}

# A type checker sees the imports above instead, and so a misspelled name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'logitlake' has no attribute {name!r}")
        return getattr(import_module(_READING.get(name, "logitlake.pipeline.api")), name)

    def __dir__() -> list[str]:
        return [*__all__, *globals()]
