"""Parquet files, one document a row, read in small batches of the needed columns only."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from logitlake.pipeline.corpus.document import Document, Reject, RejectReason, document_builder, fields_of
from logitlake.pipeline.corpus.files import CorpusFile, corpus_files, unreadable
from logitlake.pipeline.settings.corpus import CorpusSettings

_DEFAULT_GLOB = ("**/*.parquet",)
_BATCH_ROWS = 256


class ParquetCorpus(CorpusSettings):
    """Parquet files below `path`."""

    kind: Literal["parquet"] = "parquet"

    def read(self) -> Iterator[Document | Reject]:
        """The documents and rejects of a Parquet corpus; a line is the number of the row in its file, from 1.

        A file that is not Parquet, or is damaged, gives the rows before the damage and one reject. Raises CorpusError
        if the corpus or one of its files can't be opened.
        """
        build = document_builder(self)
        for file in corpus_files(self.name, self.path, self.glob, _DEFAULT_GLOB):
            number = 0
            try:
                for number, row in enumerate(_rows(self, file), start=1):
                    if isinstance(row, UnicodeDecodeError):
                        yield Reject(self.name, file.source, number, RejectReason.NOT_UTF8, str(row))
                    else:
                        yield build(row, file.source, number)
            except (pa.ArrowException, OSError) as error:
                detail = f"not readable as Parquet after row {number}: {error}"
                yield Reject(self.name, file.source, number + 1, RejectReason.CORRUPT_FILE, detail)


def _rows(settings: CorpusSettings, file: CorpusFile) -> Iterator[Mapping[str, Any] | UnicodeDecodeError]:
    try:
        stream = file.path.open("rb")
    except OSError as error:
        raise unreadable(settings.name, file, error) from None
    with stream, pq.ParquetFile(stream) as parquet:
        columns = parquet.schema_arrow.names
        fields = [field for field in fields_of(settings) if field in columns]
        if len(fields) < len(fields_of(settings)):
            # Every row lacks the field: one reject per row, so that the share of rejects counts documents.
            lacking = dict.fromkeys(columns, "")
            yield from (lacking for _ in range(parquet.metadata.num_rows))
            return
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=fields):
            yield from _plain_rows(batch)


def _plain_rows(batch: pa.RecordBatch) -> Iterator[Mapping[str, Any] | UnicodeDecodeError]:
    """Rows as Python values. A row that is not UTF-8, which Parquet does not check, gives its error."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield error
