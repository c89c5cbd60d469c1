"""Axolotl's KD columns of a tokenised data set: `target_token_ids`, `target_logprobs`, `target_mask`.

Read as its loss reads them: entry i is the target at position i, so of token i+1.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from logitlake.pipeline.imports.import_format import ImportFormat, ImportReader
from logitlake.pipeline.imports.sparse_rows import SparseRows, column, fitted, token_column
from logitlake.pipeline.targets.arrow_lists import nested_lists, running_sums
from logitlake.storage.errors import CorpusError


def _read(table: pa.Table) -> SparseRows:
    tokens, row_offsets = token_column(table)
    id_rows, offsets, ids = nested_lists(column(table, "target_token_ids", pa.list_(pa.list_(pa.int64()))))
    logprob_rows, logprob_offsets, logprobs = nested_lists(
        column(table, "target_logprobs", pa.list_(pa.list_(pa.float64())))
    )
    mask_rows, mask_offsets, mask = nested_lists(column(table, "target_mask", pa.list_(pa.list_(pa.int64()))))
    if not (
        np.array_equal(id_rows, logprob_rows)
        and np.array_equal(id_rows, mask_rows)
        and np.array_equal(offsets, logprob_offsets)
        and np.array_equal(offsets, mask_offsets)
    ):
        raise CorpusError("target_token_ids, target_logprobs and target_mask: expected lists of the same lengths")
    with np.errstate(under="ignore"):
        probs = np.where(mask > 0, np.exp(logprobs), 0.0)
    return SparseRows(
        tokens=tokens,
        row_offsets=row_offsets,
        offsets=running_sums(fitted(row_offsets, id_rows, np.diff(offsets))),
        ids=ids,
        probs=probs,
        lines=np.arange(1, table.num_rows + 1),
    )


def _open(folder: Path, settings: Path | None) -> ImportReader:
    return ImportReader(read=_read, settings={})


AXOLOTL = ImportFormat(open=_open)
