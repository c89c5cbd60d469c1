"""Files that documents were read from, and documents that were rejected."""

from datetime import UTC, datetime

import pyarrow as pa

from logitlake.storage.identity import ID_LENGTH
from logitlake.storage.lake.lake import Lake, Transaction


def note_sightings(lake: Lake, run_id: str, sources: pa.Table, rejects: pa.Table) -> None:
    """Record sources of documents and rejects, those that are new."""
    if sources.num_rows or rejects.num_rows:
        lake.change(lambda transaction: insert_sightings(transaction, run_id, sources, rejects))


def insert_sightings(transaction: Transaction, run_id: str, sources: pa.Table, rejects: pa.Table) -> None:
    """Within a transaction: the sources (doc_id, corpus, source, line) and rejects that are not yet known.

    Sources of forgotten documents, and of traces of forgotten prompts, are left out, since their files may still be in
    the corpus.
    """
    connection = transaction.connection
    if sources.num_rows:
        connection.register("incoming_sources", sources)
        new = connection.execute(
            """
            SELECT doc_id, corpus, source, line::BIGINT AS line FROM incoming_sources
            WHERE doc_id NOT IN (SELECT doc_id FROM store.tombstones)
                AND substr(doc_id, 1, ?) NOT IN (SELECT doc_id FROM store.tombstones)
            EXCEPT SELECT doc_id, corpus, source, line FROM store.document_sources
            """,
            [ID_LENGTH],
        ).to_arrow_table()
        connection.unregister("incoming_sources")
        transaction.insert("document_sources", new)
    if rejects.num_rows:
        connection.register("incoming_rejects", rejects)
        new = connection.execute(
            """
            SELECT DISTINCT ON (corpus, source, line, reason)
                corpus, source, line::BIGINT AS line, reason, detail, ? AS run_id, ?::TIMESTAMPTZ AS seen_at
            FROM incoming_rejects AS i
            WHERE NOT EXISTS (
                FROM store.rejects AS r
                WHERE (r.corpus, r.source, r.reason) = (i.corpus, i.source, i.reason)
                    AND r.line IS NOT DISTINCT FROM i.line
            )
            """,
            [run_id, datetime.now(UTC)],
        ).to_arrow_table()
        connection.unregister("incoming_rejects")
        transaction.insert("rejects", new)
