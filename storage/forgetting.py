"""Documents that somebody has the right to have forgotten, and recipes that are no longer wanted.

Gone from queries and training when the call returns; from disk after the next maintenance; never back by replay,
rebuild or copy: a tombstone lies beside the data before the first row is deleted, and it beats everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from storage.errors import LakeError
from storage.lake import Lake, write_note


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What was removed, and which students had learned from it: they are not changed, somebody must decide."""

    doc_ids: tuple[str, ...]
    n_sequences: int
    student_ids: tuple[str, ...]


def find_documents(lake: Lake, *, source: str | None = None, where: str | None = None) -> list[str]:
    """Ids of the documents of a source (`corpus/path`, or a prefix ending in /), or of a condition over `documents`."""
    if source is not None:
        rows = lake.sql(
            """
            SELECT DISTINCT doc_id FROM sources
            WHERE corpus || '/' || source = ? OR (suffix(?, '/') AND starts_with(corpus || '/' || source, ?))
            """,
            [source, source, source],
        )
    else:
        rows = lake.sql(f"SELECT DISTINCT doc_id FROM documents WHERE {where}")
    return sorted(rows["doc_id"].to_pylist())


def forget(lake: Lake, doc_ids: Sequence[str], *, reason: str) -> Forgotten:
    """Forget documents under every recipe. Idempotent: an id that the lake never held gets its tombstone too."""
    ids = sorted(set(doc_ids))
    students = students_that_saw(lake, ids)
    now = datetime.now(UTC)
    for doc_id in ids:
        note = {"doc_id": doc_id, "reason": reason, "forgotten_at": now.isoformat(timespec="seconds")}
        write_note(lake.location, f"tombstones/{doc_id}.json", note)
    rows = pa.table({"doc_id": ids, "reason": [reason] * len(ids), "forgotten_at": [now] * len(ids)})
    with lake.transaction() as transaction:
        connection = transaction.connection
        found = connection.execute(
            "SELECT count(*) FROM store.sequences WHERE list_contains(?, doc_id)", [ids]
        ).fetchone()
        for table in ("sequences", "documents", "document_sources"):
            connection.execute(f"DELETE FROM store.{table} WHERE list_contains(?, doc_id)", [ids])
        transaction.insert("tombstones", rows)
    return Forgotten(doc_ids=tuple(ids), n_sequences=found[0] if found else 0, student_ids=tuple(students))


def retire_recipe(lake: Lake, recipe_id: str) -> int:
    """Remove everything cached under a recipe; returns the number of sequences.

    Captured anew it comes back, and a rebuild takes it back as long as its files have not been swept.
    """
    if not lake.row("SELECT 1 AS found FROM store.recipes WHERE recipe_id = ?", [recipe_id]):
        raise LakeError(f"no recipe {recipe_id} in this lake: `logitlake show recipes` lists them")
    with lake.transaction() as transaction:
        connection = transaction.connection
        found = connection.execute("SELECT count(*) FROM store.sequences WHERE recipe_id = ?", [recipe_id]).fetchone()
        for table in ("sequences", "documents", "commits"):
            connection.execute(f"DELETE FROM store.{table} WHERE recipe_id = ?", [recipe_id])
    return int(found[0]) if found else 0


def students_that_saw(lake: Lake, doc_ids: Sequence[str]) -> list[str]:
    """Students whose row set holds one of these documents, by the row set's own rule, and their descendants."""
    direct = set()
    for row_set in lake.sql("SELECT * FROM row_sets").to_pylist():
        condition = f"AND ({row_set['filter']})" if row_set["filter"] else ""
        seen = lake.row(
            f"""
            SELECT 1 AS found FROM (
                SELECT * FROM sequences
                WHERE list_contains(?, doc_id) AND list_contains(?, recipe_id) AND commit_number <= ? AND NOT held_out
            ) AS sequences WHERE true {condition} LIMIT 1
            """,
            [list(doc_ids), row_set["recipe_ids"], row_set["up_to_commit"]],
        )
        if seen:
            direct.add(row_set["row_set_id"])
    rows = lake.sql("SELECT DISTINCT student_id FROM lineage WHERE list_contains(?, row_set_id)", [sorted(direct)])
    return sorted(rows["student_id"].to_pylist())
