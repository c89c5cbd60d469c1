"""Records that stand in the files twice, though they were committed once: a rebuild takes the last one.

A process that is killed in a transaction leaves its files. Whoever does its work again writes the record once more,
with another run, number and time. With both, a unit would be counted twice, and an alias would be rolled back from a
student to the same student.
"""

from collections.abc import Iterable, Iterator

import duckdb
import pyarrow as pa

# By table, the rows that are taken: a unit has one commit; an alias is never promoted, or rolled back, to the student
# that it points to already; and a student is rejected once.
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
}


def without_repeated(name: str, batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of a table's files, less the records that were written again later."""
    if name not in _TAKEN:
        yield from batches
        return
    parts = list(batches)
    if parts:
        with duckdb.connect() as connection:
            connection.register("records", pa.concat_tables(parts))
            yield connection.execute(_TAKEN[name]).to_arrow_table()
