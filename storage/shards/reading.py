"""Rows read from the shards themselves, once DuckDB has said which rows there are and where they lie.

Deletes, filters and the held-out rule are SQL's; the lists are pyarrow's, which reads nested ones in about half of the
time. For a local data path only.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.errors import LakeError
from logitlake.storage.schema.sequences import SEQUENCES


def read_shard_rows(places: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The rows at `places` (`filename`, `file_row_number`: from 0), in that order, once each as they are named.

    Reads whole row groups, no more than are needed. Raises LakeError for a file that is gone or can't be read.
    """
    if not places.num_rows:
        raise ValueError("expected at least one row to read")
    names = places["filename"].combine_chunks().dictionary_encode()
    file_of = names.indices.to_numpy()
    row_of = places["file_row_number"].to_numpy()
    starts = np.flatnonzero(np.diff(file_of, prepend=-1) | (np.diff(row_of, prepend=-1) != 1))
    ends = np.append(starts[1:], len(row_of))
    parts = {
        file: _Part(path, row_of[file_of == file], columns) for file, path in enumerate(names.dictionary.to_pylist())
    }
    runs = [
        parts[file_of[start]].run(int(row_of[start]), int(end - start)) for start, end in zip(starts, ends, strict=True)
    ]
    return pa.concat_tables(runs)


class _Part:
    """The row groups of one file that hold the wanted rows."""

    def __init__(self, path: str, wanted: np.ndarray, columns: Sequence[str]):
        try:
            with pq.ParquetFile(path) as file:
                sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
                bounds = np.cumsum([0, *sizes])
                self._groups = np.unique(np.searchsorted(bounds, wanted, side="right") - 1)
                self._rows = _read(file, self._groups.tolist(), columns)
        except (OSError, pa.ArrowException) as error:
            raise_for_lack_of_memory(error)
            raise LakeError(
                f"shard {path}: can't be read ({error}); if upkeep has just removed it, run again, else "
                "`logitlake verify` says what is damaged, and `logitlake repair` mends it"
            ) from error
        self._firsts = bounds[self._groups]
        self._places = np.cumsum([0, *(sizes[group] for group in self._groups)])

    def run(self, first: int, count: int) -> pa.Table:
        """`count` consecutive rows of the file from row `first` on, without a copy."""
        group = int(np.searchsorted(self._firsts, first, side="right")) - 1
        return self._rows.slice(int(self._places[group] + first - self._firsts[group]), count)


def _read(file: pq.ParquetFile, groups: list[int], columns: Sequence[str]) -> pa.Table:
    """Some row groups of a file; a column that only a later format has is null."""
    for name in columns:
        _check_column(file.schema_arrow, name)
    absent = [SEQUENCES.field(name) for name in columns if name not in file.schema_arrow.names]
    rows = file.read_row_groups(groups, columns=list(columns))
    for field in absent:
        rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(list(columns))


def _check_column(schema: pa.Schema, name: str) -> None:
    """Raises ArrowInvalid for a column that is there twice, or of another type than a shard's."""
    expected, found = SEQUENCES.field(name), [field for field in schema if field.name == name]
    if len(found) > 1 or (not found and not expected.nullable):
        raise pa.ArrowInvalid(f"column {name}: expected once, found {len(found)} times")
    if found and not _same_type(found[0].type, expected.type):
        raise pa.ArrowInvalid(f"column {name}: expected {expected.type}, found {found[0].type}")


def _same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether two types are the same, whatever the items of lists are called."""
    if pa.types.is_list(found) and pa.types.is_list(expected):
        return _same_type(found.value_type, expected.value_type)
    return bool(found == expected)
