"""What the commit of a work unit records beside its rows: the sources of its documents, and its rejects."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from logitlake.pipeline.capture.planning import WorkUnit
from logitlake.pipeline.corpus.document import Reject
from logitlake.storage.writing.commits import REJECTS, SOURCES


def sources_of(unit: WorkUnit) -> pa.Table:
    """The sources (SOURCES) of the unit's documents, and of documents that were stored before."""
    new = [tokenized.document for tokenized in unit.documents]
    sources = [(document.doc_id, document.corpus, document.source, document.line) for document in new]
    sources += [(sighting.doc_id, sighting.corpus, sighting.source, sighting.line) for sighting in unit.duplicates]
    return _table(sources, SOURCES)


def rejects_of(unit: WorkUnit) -> pa.Table:
    """The unit's rejects (REJECTS)."""
    return rejects_table(unit.rejects)


def rejects_table(rejects: Iterable[Reject]) -> pa.Table:
    """Rejects as rows (REJECTS)."""
    return _table([(r.corpus, r.source, r.line, str(r.reason), r.detail) for r in rejects], REJECTS)


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
