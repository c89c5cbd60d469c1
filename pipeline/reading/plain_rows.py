"""Batches for training from rows of plain columns, as `logitlake export --as huggingface` writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from logitlake.pipeline.reading.batches import TargetBatch, batch_of
from logitlake.pipeline.settings.target import MAX_LEVELS
from logitlake.pipeline.targets.arrow_lists import flat_lists, nested_lists
from logitlake.pipeline.targets.decoding import CutMass, DecodedRows
from logitlake.storage.errors import SettingsError

_COLUMNS = {
    "input_ids": pa.list_(pa.int32()),
    "target_ids": pa.list_(pa.list_(pa.int32())),
    "target_probs": pa.list_(pa.list_(pa.float32())),
}
# Stored probabilities are multiples of 1/levels, so whatever was cut off at a position is worth more than this.
_LEAST_CUT = 0.5 / MAX_LEVELS


def collate_rows(
    rows: Sequence[Mapping[str, Any]], *, cut_mass: CutMass = "renormalise", pad_id: int = 0
) -> TargetBatch:
    """Rows with `input_ids`, `target_ids` and `target_probs` as one batch: a collate function for a `DataLoader`.

    The loss of the batch is that of the same rows read from the lake. `cut_mass` says what becomes of the mass that is
    missing where the probabilities of a position sum below 1: see `logitlake.make_batch`. Raises SettingsError for rows
    that lack a column or whose lists do not fit each other.
    """
    table = pa.table({name: _column(rows, name, kind) for name, kind in _COLUMNS.items()})
    tokens, places = flat_lists(table["input_ids"])
    id_rows, offsets, ids = nested_lists(table["target_ids"])
    prob_rows, prob_offsets, probs = nested_lists(table["target_probs"])
    if not (
        np.array_equal(places, id_rows) and np.array_equal(id_rows, prob_rows) and np.array_equal(offsets, prob_offsets)
    ):
        raise SettingsError(
            "rows: expected input_ids, target_ids and target_probs to have as many positions, and as many ids as "
            "probabilities at each; found others: give the rows as they were exported"
        )
    counts = np.diff(offsets)
    if counts[places[1:][np.diff(places) > 0] - 1].any():
        raise SettingsError("rows: expected no target after the last token of a row, found one")
    sums = np.bincount(np.repeat(np.arange(len(counts)), counts), weights=probs, minlength=len(counts))
    cut = (counts > 0) & (sums < 1 - _LEAST_CUT)
    ghost = None
    if cut.any() and cut_mass == "renormalise":
        probs = (probs / np.repeat(np.where(cut, sums, 1.0), counts)).astype(np.float32)
    elif cut.any():
        ghost = np.where(cut, 1 - sums, 0.0).astype(np.float32)
    decoded = DecodedRows(
        places=places.tolist(),
        bounds=offsets[places].tolist(),
        tokens=tokens,
        counts=counts,
        ids=ids,
        probs=probs,
        ghost=ghost,
    )
    return batch_of([(decoded, row) for row in range(len(rows))], pad_id=pad_id)


def _column(rows: Sequence[Mapping[str, Any]], name: str, kind: pa.DataType) -> pa.Array:
    try:
        return pa.array([row[name] for row in rows], kind)
    except KeyError:
        raise SettingsError(
            f"rows: expected the column {name}, found {', '.join(map(str, rows[0]))}; make the data set by "
            "`logitlake export --as huggingface`"
        ) from None
