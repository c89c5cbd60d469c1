"""Samples whose trace is forgotten while their prompt is not: they count as stored, and no run writes them again."""

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa

from logitlake.storage.lake.lake import Transaction


def note_forgotten_samples(transaction: Transaction, doc_ids: Sequence[str], now: datetime) -> None:
    """Note the samples of these traces, before the traces are deleted. Those of a forgotten prompt need no note."""
    samples = transaction.connection.execute(
        """
        SELECT DISTINCT prompt_id, sampling_id, sample_number, $now::TIMESTAMPTZ AS forgotten_at FROM store.traces
        WHERE list_contains($ids, doc_id) AND NOT list_contains($ids, prompt_id)
            AND NOT list_contains($ids, prompt_doc_id)
        """,
        {"ids": list(doc_ids), "now": now},
    ).to_arrow_table()
    transaction.insert("forgotten_samples", samples)


def note_refused_samples(transaction: Transaction, traces: pa.Table, now: datetime) -> None:
    """Note the samples among these traces that were written with the very tokens of a forgotten trace."""
    connection = transaction.connection
    connection.register("refused_traces", traces.select(["doc_id", "prompt_id", "sampling_id", "sample_number"]))
    samples = connection.execute(
        """
        SELECT DISTINCT prompt_id, sampling_id, sample_number, ?::TIMESTAMPTZ AS forgotten_at FROM refused_traces
        WHERE doc_id IN (SELECT doc_id FROM store.tombstones)
            AND prompt_id NOT IN (SELECT doc_id FROM store.tombstones)
            AND (prompt_id, sampling_id, sample_number) NOT IN (
                SELECT (prompt_id, sampling_id, sample_number) FROM store.forgotten_samples)
        """,
        [now],
    ).to_arrow_table()
    connection.unregister("refused_traces")
    transaction.insert("forgotten_samples", samples)
