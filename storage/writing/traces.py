"""Traces and verdicts: which samples of a prompt are there, and the commit of new ones.

A sample is (prompt, sampling, number). It is stored once: what another process has committed meanwhile, or what was
forgotten, is left out inside the transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.schema.tables import TABLES
from logitlake.storage.writing.forgotten_samples import note_refused_samples

# What the commit adds to the columns of the two tables.
_ADDED = ("commit_number", "run_id", "written_at", "judged_at")
TRACES = pa.schema([field for field in TABLES["traces"].columns if field.name not in _ADDED])
VERDICTS = pa.schema([field for field in TABLES["verdicts"].columns if field.name not in _ADDED])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A sample that is in the lake: its trace, and whether the last verdict on it is of the verifier in question.

    `reference_id`: the hash of the reference of that verdict. A forgotten sample has no trace (None).
    """

    doc_id: str | None
    is_judged: bool
    reference_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReceipt:
    """What a commit added."""

    commit_number: int
    n_traces: int
    n_verdicts: int
    n_kept: int
    n_tokens: int


def stored_samples(
    lake: Lake, prompt_ids: Sequence[str], *, sampling_id: str, verifier_id: str
) -> dict[tuple[str, int], Sample]:
    """The samples of these prompts by (prompt, number)."""
    rows = lake.sql(
        """
        WITH samples AS (
            FROM store.traces WHERE sampling_id = $sampling AND prompt_id IN (SELECT unnest($prompts))
        )
        SELECT
            t.prompt_id, t.sample_number, min(t.doc_id) AS doc_id,
            coalesce(bool_or(v.verifier_id = $verifier), false) AS judged, any_value(v.reference_id) AS reference_id
        FROM samples AS t
        LEFT JOIN (
            SELECT DISTINCT ON (doc_id) doc_id, verifier_id, reference_id FROM store.verdicts
            WHERE doc_id IN (SELECT doc_id FROM samples) ORDER BY doc_id, commit_number DESC, judged_at DESC
        ) AS v ON v.doc_id = t.doc_id
        GROUP BY ALL
        UNION ALL
        SELECT DISTINCT prompt_id, sample_number, NULL, true, NULL FROM store.forgotten_samples
        WHERE sampling_id = $sampling AND prompt_id IN (SELECT unnest($prompts))
        """,
        {"verifier": verifier_id, "sampling": sampling_id, "prompts": list(prompt_ids)},
    )
    return {
        (row["prompt_id"], row["sample_number"]): Sample(
            doc_id=row["doc_id"], is_judged=row["judged"], reference_id=row["reference_id"]
        )
        for row in rows.to_pylist()
    }


def stored_traces(lake: Lake, doc_ids: Sequence[str]) -> pa.Table:
    """The traces of these ids, one row for each id (TRACES), with `score` and `reason` of the last verdict.

    Reads the tables and not the view `traces`, which would sort every trace of the lake for each call.
    """
    columns = ", ".join(f't."{name}"' for name in TRACES.names)
    return lake.sql(
        f"""
        SELECT DISTINCT ON (t.doc_id) {columns}, v.score, v.reason
        FROM store.traces AS t
        LEFT JOIN (
            SELECT DISTINCT ON (doc_id) doc_id, score, reason FROM store.verdicts
            WHERE doc_id IN (SELECT unnest($ids)) ORDER BY doc_id, commit_number DESC, judged_at DESC
        ) AS v ON v.doc_id = t.doc_id
        WHERE t.doc_id IN (SELECT unnest($ids))
        ORDER BY t.doc_id, t.commit_number, t.sampling_id, t.sample_number
        """,
        {"ids": list(doc_ids)},
    )


def forgotten_among(lake: Lake, doc_ids: Sequence[str]) -> set[str]:
    """Those of these documents that are forgotten."""
    rows = lake.sql("SELECT DISTINCT doc_id FROM store.tombstones WHERE doc_id IN (SELECT unnest(?))", [list(doc_ids)])
    return set(rows["doc_id"].to_pylist())


def commit_traces(lake: Lake, traces: pa.Table, verdicts: pa.Table, *, run_id: str) -> TraceReceipt:
    """Commit traces (TRACES) and verdicts (VERDICTS) together, those that are new and not forgotten.

    A verdict is new unless the last one on its trace is of the same verifier and reference: so an earlier verifier can
    come back.

    Raises LakeBusyError if other writers win too often; nothing is committed then.
    """
    return lake.change(lambda transaction: _insert(transaction, traces, verdicts, run_id))


def _insert(transaction: Transaction, traces: pa.Table, verdicts: pa.Table, run_id: str) -> TraceReceipt:
    connection = transaction.connection
    now = datetime.now(UTC)
    parameters = [transaction.number, run_id, now]
    note_refused_samples(transaction, traces, now)
    connection.register("incoming_traces", traces)
    new_traces = connection.execute(
        """
        SELECT i.*, ? AS commit_number, ? AS run_id, ?::TIMESTAMPTZ AS written_at FROM incoming_traces AS i
        WHERE (prompt_id, sampling_id, sample_number) NOT IN (
                SELECT (prompt_id, sampling_id, sample_number) FROM store.traces
                UNION ALL SELECT (prompt_id, sampling_id, sample_number) FROM store.forgotten_samples)
            AND NOT EXISTS (
                FROM store.tombstones AS f WHERE f.doc_id IN (i.doc_id, i.prompt_id, i.prompt_doc_id))
        """,
        parameters,
    ).to_arrow_table()
    connection.unregister("incoming_traces")
    transaction.insert("traces", new_traces)
    connection.register("incoming_verdicts", verdicts)
    new_verdicts = connection.execute(
        """
        SELECT DISTINCT ON (doc_id, verifier_id)
            i.*, ? AS commit_number, ? AS run_id, ?::TIMESTAMPTZ AS judged_at
        FROM incoming_verdicts AS i
        WHERE (doc_id, verifier_id, coalesce(reference_id, '')) NOT IN (
                SELECT DISTINCT ON (doc_id) (doc_id, verifier_id, coalesce(reference_id, '')) FROM store.verdicts
                WHERE doc_id IN (SELECT doc_id FROM incoming_verdicts)
                ORDER BY doc_id, commit_number DESC, judged_at DESC)
            AND doc_id IN (SELECT doc_id FROM store.traces)
        """,
        parameters,
    ).to_arrow_table()
    connection.unregister("incoming_verdicts")
    transaction.insert("verdicts", new_verdicts)
    return TraceReceipt(
        commit_number=transaction.number,
        n_traces=new_traces.num_rows,
        n_verdicts=new_verdicts.num_rows,
        n_kept=sum(new_verdicts["is_kept"].to_pylist()),
        n_tokens=sum(len(ids) for ids in new_traces["completion_ids"].to_pylist()),
    )
