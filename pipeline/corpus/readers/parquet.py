"""Parquet files, one document a row, read in small batches of the needed columns only."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from logitlake.pipeline.corpus.batch_size import rows_per_batch
from logitlake.pipeline.corpus.document import (
    Document,
    DocumentBuilder,
    Reject,
    RejectReason,
    document_builder,
    fields_of,
    optional_fields_of,
)
from logitlake.pipeline.corpus.files import CorpusFile, read_files
from logitlake.pipeline.corpus.json_line import MAX_VALUES
from logitlake.pipeline.corpus.reject_reason import UnusableError
from logitlake.pipeline.corpus.streams import MAX_LINE_BYTES, open_regular
from logitlake.pipeline.settings.corpus import CorpusSettings

_DEFAULT_GLOB = ("**/*.parquet",)
_READ_BYTES = 2**20

Row = Mapping[str, Any] | UnusableError


class ParquetCorpus(CorpusSettings):
    """Parquet files below `path`."""

    kind: Literal["parquet"] = "parquet"

    def read(self) -> Iterator[Document | Reject]:
        """The documents and rejects of a Parquet corpus; a line is the number of the row in its file, from 1.

        A file that is not Parquet, or is damaged, gives the rows before the damage and one reject. Raises CorpusError
        if the corpus or one of its files can't be opened.
        """
        return read_files(self, _DEFAULT_GLOB, partial(_read_file, self, document_builder(self)))


def _read_file(settings: CorpusSettings, build: DocumentBuilder, file: CorpusFile) -> Iterator[Document | Reject]:
    number = 0
    with open_regular(file.path) as stream:
        try:
            for number, row in enumerate(_rows(settings, stream), start=1):
                if isinstance(row, UnusableError):
                    yield Reject(settings.name, file.source, number, row.reason, row.detail)
                else:
                    yield build(row, file.source, number)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            detail = f"not readable as Parquet after row {number}: {error}"
            yield Reject(settings.name, file.source, number + 1, RejectReason.CORRUPT_FILE, detail)


def _rows(settings: CorpusSettings, stream: BinaryIO) -> Iterator[Row]:
    # Without pre-buffering and with a small buffer, pages are read one by one rather than whole column chunks.
    with pq.ParquetFile(stream, pre_buffer=False, buffer_size=_READ_BYTES) as parquet:
        columns = parquet.schema_arrow.names
        needed, optional = fields_of(settings), optional_fields_of(settings)
        fields = [field for field in (*needed, *optional) if field in columns]
        unusable = _unusable_columns((*needed, *(field for field in optional if field in columns)), columns)
        if unusable is not None:
            # Every row is unusable: one reject per row, so that the share of rejects counts documents.
            yield from (unusable for _ in range(parquet.metadata.num_rows))
            return
        for group in range(parquet.num_row_groups):
            n_rows = rows_per_batch(stream, parquet.metadata.row_group(group), fields)
            for batch in parquet.iter_batches(n_rows, row_groups=[group], columns=fields):
                yield from _plain_rows(batch)


def _unusable_columns(fields: tuple[str, ...], columns: list[str]) -> UnusableError | None:
    """Why no row of a file can be used: a needed column that it lacks, or has twice."""
    counts = Counter(columns)
    for field in fields:
        if not counts[field]:
            names = ", ".join(sorted(counts)[:20]) or "none"
            return UnusableError(RejectReason.MISSING_FIELD, f"no field {field!r}; fields here: {names}")
        if counts[field] > 1:
            return UnusableError(RejectReason.REPEATED_KEY, f"{counts[field]} columns are named {field!r}")
    return None


def _plain_rows(batch: pa.RecordBatch) -> Iterator[Row]:
    """Rows as Python values. A row that is too large, or not UTF-8, which Parquet does not check, is unusable."""
    if _unreadable(batch) is None:
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:
            # to_pylist makes all rows or none: none was yielded.
            yield from _single_rows(batch)
    else:
        yield from _single_rows(batch)


def _single_rows(batch: pa.RecordBatch) -> Iterator[Row]:
    for row in (batch.slice(index, 1) for index in range(batch.num_rows)):
        try:
            yield _unreadable(row) or row.to_pylist()[0]
        except UnicodeDecodeError as error:
            yield UnusableError(RejectReason.NOT_UTF8, str(error))


def _unreadable(batch: pa.RecordBatch) -> UnusableError | None:
    """The reject of rows that would take too much memory as Python objects."""
    sizes = [_python_size(column) for column in batch.columns]
    n_values, n_bytes = (sum(column) for column in zip(*sizes, strict=True))
    if n_bytes > MAX_LINE_BYTES:
        return UnusableError(RejectReason.TOO_LONG, f"row of {n_bytes} bytes, at most {MAX_LINE_BYTES} are read")
    if n_values > MAX_VALUES:
        return UnusableError(RejectReason.TOO_LONG, f"row of {n_values} values, at most {MAX_VALUES} are read")
    return None


def _python_size(array: pa.Array) -> tuple[int, int]:
    """How many Python objects the values of an array become, and how many bytes these refer to."""
    if isinstance(array, pa.ExtensionArray):
        return _python_size(array.storage)
    if pa.types.is_dictionary(array.type):
        return len(array), _dictionary_size(array)
    if not pa.types.is_nested(array.type):
        return len(array), array.nbytes
    sizes = [_python_size(part) for part in _parts(array)]
    return len(array) + sum(size[0] for size in sizes), sum(size[1] for size in sizes)


def _parts(array: pa.Array) -> list[pa.Array]:
    """The arrays inside a list, a map or a struct, as far as the array refers to them."""
    if isinstance(array, pa.MapArray):
        start, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return [part.slice(start, end - start) for part in (array.keys, array.items)]
    inner = array.flatten()
    return inner if isinstance(inner, list) else [inner]


def _dictionary_size(array: pa.DictionaryArray) -> int:
    """Bytes of the values that an array's indices refer to; a value counts each time."""
    lengths = pc.binary_length(array.dictionary) if _has_length(array.dictionary.type) else None
    return array.nbytes if lengths is None else int(pc.sum(lengths.take(array.indices)).as_py() or 0)


def _has_length(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary))
