"""Records that stand in the files twice, though they were committed once: a rebuild takes the last one, and a repair
takes none that repeats what the catalog still has.

A process that is killed in a transaction leaves its files. Whoever does its work again writes the record once more,
with another run, number and time. With both, a unit would be counted twice, and an alias would be rolled back from a
student to the same student.
"""

from collections.abc import Iterable, Iterator
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa

_BATCH_ROWS = 20_000

# By table, the rows that are taken: a unit has one commit; a sample is written once, and judged once by a verifier; an
# alias is never promoted, or rolled back, to the student that it points to already; and a student is rejected once.
_TAKEN = {
    "commits": """
        SELECT * FROM records
        QUALIFY row_number() OVER (PARTITION BY unit_id ORDER BY committed_at DESC, commit_number DESC) = 1
    """,
    "promotions": """
        SELECT * FROM records WHERE decision <> 'rejected'
        WINDOW later AS (PARTITION BY alias ORDER BY commit_number, decided_at)
        QUALIFY (student_id, decision) IS DISTINCT FROM (lead(student_id) OVER later, lead(decision) OVER later)
        UNION ALL BY NAME
        SELECT * FROM records WHERE decision = 'rejected'
        QUALIFY row_number() OVER (PARTITION BY alias, student_id ORDER BY commit_number DESC, decided_at DESC) = 1
    """,
    # Chosen by the key alone, so that the texts and ids of a large lake stay on the disk.
    "traces": """
        SELECT * FROM records WHERE rowid IN (
            SELECT rowid FROM records
            QUALIFY row_number() OVER (
                PARTITION BY prompt_id, sampling_id, sample_number ORDER BY commit_number DESC, written_at DESC
            ) = 1
        )
    """,
    "verdicts": """
        SELECT * FROM records WHERE rowid IN (
            SELECT rowid FROM records
            QUALIFY row_number() OVER (PARTITION BY doc_id, verifier_id ORDER BY commit_number DESC, judged_at DESC) = 1
        )
    """,
}


def without_repeated(name: str, batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of a table's files, less the records that were written again later.

    The rows go through a temporary file: memory is a batch, and the keys of the rows.
    """
    if name not in _TAKEN:
        yield from batches
        return
    with TemporaryDirectory() as directory, duckdb.connect(f"{directory}/records.duckdb") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        n_batches = 0
        for batch in batches:
            connection.register("batch", batch)
            statement = "INSERT INTO records BY NAME FROM batch" if n_batches else "CREATE TABLE records AS FROM batch"
            connection.execute(statement)
            connection.unregister("batch")
            n_batches += 1
            # The name would hold the batch while the next one is read.
            del batch
        if n_batches:
            for rows in connection.execute(_TAKEN[name]).to_arrow_reader(_BATCH_ROWS):
                yield pa.Table.from_batches([rows])


# By table, rows that files without a name in the catalog may hold only because a process was killed: the unit has its
# commit, the alias was moved to this student just before or just after, or the student was rejected already.
_REPEATS = {
    "commits": "unit_id IN (SELECT unit_id FROM intact)",
    "promotions": """
        EXISTS (
            SELECT 1 FROM (
                SELECT
                    alias, decision, student_id, commit_number, decided_at,
                    lag(student_id) OVER line AS before, lead(student_id) OVER line AS after
                FROM (FROM intact UNION ALL BY NAME FROM unnamed) WHERE decision <> 'rejected'
                WINDOW line AS (PARTITION BY alias, decision ORDER BY commit_number, decided_at)
            ) AS l
            WHERE (l.alias, l.decision, l.commit_number, l.decided_at)
                = (unnamed.alias, unnamed.decision, unnamed.commit_number, unnamed.decided_at)
                AND l.student_id IN (l.before, l.after)
        )
        OR (
            decision = 'rejected' AND (alias, student_id) IN (
                SELECT (alias, student_id) FROM intact WHERE decision = 'rejected'
            )
        )
    """,
    "traces": "(prompt_id, sampling_id, sample_number) IN (SELECT (prompt_id, sampling_id, sample_number) FROM intact)",
    "verdicts": "(doc_id, verifier_id) IN (SELECT (doc_id, verifier_id) FROM intact)",
}


def without_repeats_of(name: str, intact: pa.Table, unnamed: pa.Table) -> pa.Table:
    """The rows of `unnamed` (files that the catalog does not name) that do not repeat one of `intact`."""
    if name not in _REPEATS or not unnamed.num_rows:
        return unnamed
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("intact", intact)
        connection.register("unnamed", unnamed)
        rows = connection.execute(f"FROM unnamed WHERE NOT coalesce({_REPEATS[name]}, false)").to_arrow_table()
    return rows.select(unnamed.column_names).cast(unnamed.schema)
