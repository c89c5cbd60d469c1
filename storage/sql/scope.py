"""The views of a lake over a part of its rows: as they were at a commit, or without the held-out documents.

The small tables and the sequences are shadowed by views in the session's own memory, each with its condition, and the
SQL face is made anew over them. So a view can never show more than the part, whatever it is built of. Snapshots expire
and commit numbers stay with the rows: what was there at commit N can be told for ever, but for what was forgotten
since. A document's later sightings count as having been there.
"""

from dataclasses import dataclass

from logitlake.storage.errors import QueryError
from logitlake.storage.lake.creation import NAME, table_statements
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.views import held_out_rule, view_statements

MEMORY = "memory"

_IN_COMMITS = "unit_id IN (SELECT unit_id FROM store.commits)"
_IN_DOCUMENTS = "doc_id IN (SELECT doc_id FROM store.documents)"
# What each table is cut by: $n stands for the commit number, $t for the moment of the first commit after it.
_AS_OF = {
    "guard": "true",
    "lake_settings": "true",
    "vocabulary": "true",
    "commits": "commit_number <= $n",
    "recipes": "created_at < $t",
    "documents": _IN_COMMITS,
    "sequences": _IN_COMMITS,
    "document_sources": _IN_DOCUMENTS,
    "run_events": "happened_at < $t",
    "row_sets": "up_to_commit <= $n AND created_at < $t",
    "row_set_queries": "row_set_id IN (SELECT row_set_id FROM store.row_sets)",
    "row_set_documents": "row_set_id IN (SELECT row_set_id FROM store.row_sets)",
    "students": "created_at < $t",
    "student_losses": "measured_at < $t",
    "promotions": "commit_number <= $n",
    "rejects": "seen_at < $t",
    "tombstones": "forgotten_at < $t",
}
_BY_DOCUMENT = ("documents", "sequences", "document_sources", "student_losses", "row_set_documents")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which part: commits up to `as_of` (None: all), and whether `held_out` documents are there at all."""

    as_of: int | None = None
    held_out: bool = True


def narrow(lake: Lake, scope: Scope) -> None:
    """Let the names of the views stand for this part of the lake, in this connection.

    Raises QueryError for a commit that is not there yet.
    """
    connection = lake.connection
    settings = dict(connection.execute("SELECT name, value FROM store.lake_settings").fetchall())
    conditions = _conditions(lake, scope, held_out_rule(settings, "doc_id"))
    known = set(
        lake.sql("SELECT table_name FROM duckdb_tables() WHERE database_name = ? AND schema_name = 'store'", [NAME])[
            "table_name"
        ].to_pylist()
    )
    connection.execute(f"CREATE SCHEMA {MEMORY}.store")
    connection.execute(f"USE {MEMORY}")
    for table, condition in conditions.items():
        if table in known:
            connection.execute(f"CREATE VIEW store.{table} AS SELECT * FROM {NAME}.store.{table} WHERE {condition}")
        else:  # a lake that an older logitlake made and nobody has written to since
            connection.execute(table_statements()[table])
    for statement in view_statements(settings):
        connection.execute(statement)


def forgotten_since(lake: Lake, commit_number: int) -> int:
    """How many documents were forgotten since a commit: whatever was there of them then is missing.

    Forgetting has a time and no number, so it counts from the last captured unit at or before that commit: never too
    few, and too many only if documents were forgotten between the two.
    """
    if commit_number == lake.commit_number:
        return 0
    found = lake.row(
        f"""
        SELECT count(DISTINCT doc_id) AS n FROM {NAME}.store.tombstones
        WHERE forgotten_at >= coalesce(
            (SELECT max(committed_at) FROM {NAME}.store.commits WHERE commit_number <= ?), '-infinity'::TIMESTAMPTZ)
        """,
        [commit_number],
    )
    return int(found["n"])


def _conditions(lake: Lake, scope: Scope, held_out: str) -> dict[str, str]:
    conditions = dict.fromkeys(_AS_OF, "true")
    if scope.as_of is not None:
        last = lake.commit_number
        if not 0 <= scope.as_of <= last:
            raise QueryError(f"commit {scope.as_of}: there is none yet; the last one is {last}")
        moment = _moment(lake, scope.as_of)
        for table, condition in _AS_OF.items():
            conditions[table] = condition.replace("$n", str(scope.as_of)).replace("$t", moment)
    if not scope.held_out:
        for table in _BY_DOCUMENT:
            conditions[table] = f"NOT {held_out} AND {conditions[table]}"
    return conditions


def _moment(lake: Lake, commit_number: int) -> str:
    """When the first commit after this one was made, as SQL: things without a number that are older belong to it."""
    found = lake.row(
        f"SELECT min(committed_at)::VARCHAR AS moment FROM {NAME}.store.commits WHERE commit_number > ?",
        [commit_number],
    )
    return f"TIMESTAMPTZ '{found['moment'] or 'infinity'}'"
