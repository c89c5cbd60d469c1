"""Arcee DistillKit's data sets: compressed logits, or the ids and log-probabilities as they are.

Entry i of a row is the target of token i+1. Rows that were packed are cut at the borders of their parts, which
`attention_mask` numbers; positions with a negative label have no target.

Shapes: N positions, B bytes of each, k entries.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from logitlake.pipeline.imports.distillkit_codec import LogprobCompressor, decode_logprobs, unpacked
from logitlake.pipeline.imports.import_format import ImportFormat, ImportReader
from logitlake.pipeline.imports.sparse_rows import SparseRows, column, fitted, token_column
from logitlake.pipeline.settings.yaml_text import read_yaml
from logitlake.pipeline.targets.arrow_lists import flat_lists, nested_lists, running_sums
from logitlake.storage.errors import CorpusError, SettingsError

_SETTINGS = "distillkit.yaml"
_LEGACY = "packed_indices"


def _open(folder: Path, settings: Path | None) -> ImportReader:
    if settings is None and (folder / _SETTINGS).is_file():
        settings = folder / _SETTINGS
    compressor = None if settings is None else _compressor(settings)
    return ImportReader(
        read=lambda table: _read(table, compressor),
        settings={} if compressor is None else {"logprob_compressor": compressor.model_dump(mode="json")},
    )


def _compressor(file: Path) -> LogprobCompressor:
    """The section of this name, at the top of the file or in its section `teacher`; else the whole file."""
    try:
        content = read_yaml(file)
    except OSError as error:
        raise SettingsError(f"{file}: can't be read ({error.strerror}); name DistillKit's settings file") from None
    if isinstance(content, Mapping):
        content = content.get("teacher", content)
    if isinstance(content, Mapping):
        content = content.get("logprob_compressor", content)
    try:
        return LogprobCompressor.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the section'}: {problem['msg']}" for problem in error.errors()
        )
        raise SettingsError(
            f"{file}: expected DistillKit's section logprob_compressor, found another: {problems}"
        ) from None


def _read(table: pa.Table, compressor: LogprobCompressor | None) -> SparseRows:
    tokens, row_offsets = token_column(table)
    if "token_ids" in table.column_names:
        list_rows, counts, ids, logprobs = _raw(table)
    elif _LEGACY in table.column_names:
        raise CorpusError(
            f"column {_LEGACY}: DistillKit's legacy compression holds centred logits, from which no probability "
            "follows; capture again, or compress log-probabilities"
        )
    else:
        list_rows, counts, ids, logprobs = _compressed(table, compressor)
    rows = SparseRows(
        tokens=tokens,
        row_offsets=row_offsets,
        offsets=running_sums(fitted(row_offsets, list_rows, counts)),
        ids=ids,
        probs=np.exp(logprobs),
        lines=np.arange(1, table.num_rows + 1),
    )
    if "labels" in table.column_names:
        rows = rows.masked(_per_token(table, "labels", rows) >= 0)
    if "attention_mask" in table.column_names:
        parts = _per_token(table, "attention_mask", rows)
        rows = rows.split_at(np.concatenate([[False], np.diff(parts) != 0]) if len(parts) else np.zeros(0, bool))
        # Padding has the number 0.
        rows = rows.kept(parts[rows.row_offsets[:-1]] > 0)
    return rows


_Entries = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def _compressed(table: pa.Table, compressor: LogprobCompressor | None) -> _Entries:
    if compressor is None:
        raise CorpusError(
            "the log-probabilities are compressed: name the settings that DistillKit wrote them with (--settings), or "
            f"put them into {_SETTINGS} beside the data"
        )
    list_rows, logprobs_NB = _matrix(table, "compressed_logprobs", compressor.logprob_bytes)
    index_rows, indices_NB = _matrix(table, "bytepacked_indices", compressor.index_bytes)
    if not np.array_equal(list_rows, index_rows):
        raise CorpusError("compressed_logprobs and bytepacked_indices: expected lists of the same lengths")
    ids_Nk = unpacked(indices_NB, compressor.index_bits, compressor.k)
    logprobs_Nk = decode_logprobs(logprobs_NB, compressor)
    return list_rows, np.full(len(ids_Nk), compressor.k), ids_Nk.ravel(), logprobs_Nk.ravel()


def _matrix(table: pa.Table, name: str, width: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    list_rows, offsets, values = nested_lists(column(table, name, pa.list_(pa.list_(pa.uint8()))))
    if wrong := set(np.diff(offsets).tolist()) - {width}:
        raise CorpusError(
            f"column {name}: expected {width} bytes a position by these settings, found {min(wrong)}: they are not the "
            "settings that it was written with"
        )
    return list_rows, values.reshape(-1, width)


def _raw(table: pa.Table) -> _Entries:
    list_rows, offsets, ids = nested_lists(column(table, "token_ids", pa.list_(pa.list_(pa.int64()))))
    value_rows, value_offsets, values = nested_lists(column(table, "top_values", pa.list_(pa.list_(pa.float64()))))
    if not (np.array_equal(list_rows, value_rows) and np.array_equal(offsets, value_offsets)):
        raise CorpusError("token_ids and top_values: expected lists of the same lengths")
    return list_rows, np.diff(offsets), ids, values


def _per_token(table: pa.Table, name: str, rows: SparseRows) -> NDArray[Any]:
    values, offsets = flat_lists(column(table, name, pa.list_(pa.int64())))
    if not np.array_equal(offsets, rows.row_offsets):
        raise CorpusError(f"column {name}: expected as many entries as input_ids, found others")
    return values


DISTILLKIT = ImportFormat(open=_open)
