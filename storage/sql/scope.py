"""The views of a lake over a part of its rows: as they were at a commit, or without the held-out documents.

Snapshots expire but commit numbers stay with the rows: what the lake held at commit N can always be told, except for
what was forgotten since. Sources of a document that were recorded later are shown as well.
"""

from dataclasses import dataclass

from logitlake.storage.errors import QueryError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.views import held_out_rule
from logitlake.storage.schema.tables import NAME, TABLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which part: commits up to `as_of` (None: all), and whether `held_out` documents are there at all."""

    as_of: int | None = None
    held_out: bool = True


def narrow(lake: Lake, scope: Scope) -> None:
    """Let the names of the views stand for this part of the lake, in this session.

    Raises QueryError for a commit that is not there yet.
    """
    conditions = dict.fromkeys(TABLES, "true")
    if scope.as_of is not None:
        last = lake.commit_number
        if not 0 <= scope.as_of <= last:
            raise QueryError(f"commit {scope.as_of}: not in the lake yet; the last commit is {last}")
        moment = _moment(lake, scope.as_of)
        for name, table in TABLES.items():
            conditions[name] = table.as_of.replace("$n", str(scope.as_of)).replace("$t", moment)
    if not scope.held_out:
        settings = {"held_out_salt": lake.held_out_salt, "held_out_share": str(lake.held_out_share)}
        rule = held_out_rule(settings, "doc_id")
        for name, table in TABLES.items():
            if table.of_documents:
                conditions[name] = f"NOT {rule} AND {conditions[name]}"
    lake.show_only(conditions)


def forgotten_since(lake: Lake, commit_number: int) -> int:
    """How many documents were forgotten since a commit: their rows of that time are missing.

    A tombstone has a time and no commit number, so tombstones are counted from the last work unit at or before that
    commit: never too few, and too many only if documents were forgotten between that unit and the commit.
    """
    if commit_number == lake.commit_number:
        return 0
    row = lake.row(
        f"""
        SELECT count(DISTINCT doc_id) AS n FROM {NAME}.store.tombstones
        WHERE forgotten_at >= coalesce(
            (SELECT max(committed_at) FROM {NAME}.store.commits WHERE commit_number <= ?), '-infinity'::TIMESTAMPTZ)
        """,
        [commit_number],
    )
    return int(row["n"])


def _moment(lake: Lake, commit_number: int) -> str:
    """The time of the first commit after this one, as SQL: rows without a commit number that are older belong to it."""
    row = lake.row(
        f"SELECT min(committed_at)::VARCHAR AS moment FROM {NAME}.store.commits WHERE commit_number > ?",
        [commit_number],
    )
    return f"TIMESTAMPTZ '{row['moment'] or 'infinity'}'"
