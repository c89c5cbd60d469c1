"""Forgetting documents, and retiring recipes that are no longer wanted.

A forgotten document is gone from queries and training when the call returns, and from the disk after the next
maintenance. No repeated capture, rebuild or copy brings it back: its tombstone is written beside the data before the
first row is deleted, and every writer obeys tombstones.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pyarrow as pa

from logitlake.storage.connection.object_store import list_paths, read_all, write_note
from logitlake.storage.errors import LakeError, SettingsError
from logitlake.storage.identity import ID_LENGTH, TRACE_ID_LENGTH
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.schema.tables import TABLES
from logitlake.storage.sql.session import query
from logitlake.storage.writing.forgotten_samples import note_forgotten_samples
from logitlake.storage.writing.runs import RETIRE_KIND, note_run

_REMOVED = "forgotten rows removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What was removed, and the students that were trained on it: they are unchanged (retrain or delete them)."""

    doc_ids: tuple[str, ...]
    n_sequences: int
    student_ids: tuple[str, ...]


def find_documents(lake: Lake, *, source: str | None = None, where: str | None = None) -> list[str]:
    """Ids of the documents of a source (`corpus/path`, or a prefix ending in /), or of a condition over `documents`.

    Raises QueryError if `where` is not a condition, or does more than read.
    """
    if source is not None:
        rows = lake.sql(
            """
            SELECT DISTINCT doc_id FROM (
                SELECT doc_id, corpus, source FROM sources
                UNION ALL SELECT prompt_doc_id, corpus, source FROM store.traces
                UNION ALL SELECT doc_id, corpus, source FROM store.traces
            )
            WHERE corpus || '/' || source = ? OR (suffix(?, '/') AND starts_with(corpus || '/' || source, ?))
            """,
            [source, source, source],
        )
    else:
        rows = query(lake.location, f"SELECT DISTINCT doc_id FROM documents WHERE ({where}\n)")
    return sorted(rows["doc_id"].to_pylist())


def whole_id(lake: Lake, name: str) -> str:
    """The document id that `name` is or begins with. A whole id need not be in the lake.

    Raises SettingsError if `name` is not an id, or the beginning of none or several ids in the lake.
    """
    if not name or not set(name) <= set("0123456789abcdef") or len(name) > TRACE_ID_LENGTH:
        raise SettingsError(
            f"document {name!r}: expected an id of {ID_LENGTH} hex characters ({TRACE_ID_LENGTH} of a trace), or its "
            "beginning"
        )
    if len(name) in (ID_LENGTH, TRACE_ID_LENGTH):
        return name
    matches = lake.sql(
        """
        SELECT DISTINCT doc_id FROM (
            SELECT doc_id FROM store.documents
            UNION ALL SELECT unnest([doc_id, prompt_doc_id, prompt_id]) FROM store.traces
        )
        WHERE starts_with(doc_id, ?) AND (len(doc_id) = ? OR len(?) > ?) ORDER BY doc_id LIMIT 6
        """,
        [name, ID_LENGTH, name, ID_LENGTH],
    )["doc_id"].to_pylist()
    if len(matches) != 1:
        several = f"{', '.join(matches[:5])}{' …' if len(matches) > 5 else ''}: give more of the id"
        raise SettingsError(f"document {name!r}: expected the beginning of one, found {several if matches else 'none'}")
    return str(matches[0])


def sources_of(lake: Lake, doc_ids: Sequence[str]) -> dict[str, list[str]]:
    """The files (`corpus/source`) of each of these documents that the lake holds."""
    rows = lake.sql(
        """
        SELECT d.doc_id, list_sort(list_distinct(list(s.corpus || '/' || s.source))) AS seen
        FROM (SELECT DISTINCT doc_id FROM store.documents WHERE list_contains(?, doc_id)) AS d
        LEFT JOIN store.document_sources AS s USING (doc_id) GROUP BY d.doc_id
        """,
        [list(doc_ids)],
    )
    return {row["doc_id"]: row["seen"] or [] for row in rows.to_pylist()}


def forget(lake: Lake, doc_ids: Sequence[str], *, reason: str) -> Forgotten:
    """Forget documents under every recipe, and with a prompt every trace that was written for it.

    Idempotent: an id that the lake never held gets its tombstone too.
    """
    ids = with_traces(lake, doc_ids)
    students = students_that_saw(lake, ids)
    now = datetime.now(UTC)
    for doc_id in ids:
        note = {"doc_id": doc_id, "reason": reason, "forgotten_at": now.isoformat(timespec="seconds")}
        write_note(lake.location, f"tombstones/{doc_id}.json", note)
    rows = pa.table({"doc_id": ids, "reason": [reason] * len(ids), "forgotten_at": [now] * len(ids)})

    def delete(transaction: Transaction) -> int:
        connection = transaction.connection
        count = connection.execute(
            "SELECT count(*) FROM store.sequences WHERE list_contains(?, doc_id)", [ids]
        ).fetchone()
        note_forgotten_samples(transaction, ids, now)
        for name, table in TABLES.items():
            for column in table.forgotten_by if table.forget else ():
                connection.execute(f"DELETE FROM store.{name} WHERE list_contains(?, {column})", [ids])
        transaction.insert("tombstones", rows)
        return int(count[0]) if count else 0

    return Forgotten(doc_ids=tuple(ids), n_sequences=lake.change(delete), student_ids=tuple(students))


def with_traces(lake: Lake, doc_ids: Sequence[str]) -> list[str]:
    """These documents and the traces that were written for them, captured or not.

    Each trace gets a tombstone of its own, so that every file can be searched for it.
    """
    rows = lake.sql(
        """
        SELECT doc_id FROM store.traces
        WHERE list_contains($ids, prompt_id) OR list_contains($ids, prompt_doc_id)
        UNION
        SELECT doc_id FROM store.documents
        WHERE len(doc_id) > $length AND list_contains($ids, substr(doc_id, 1, $length))
        """,
        {"ids": list(doc_ids), "length": ID_LENGTH},
    )
    return sorted({*doc_ids, *rows["doc_id"].to_pylist()})


def forget_again(lake: Lake) -> tuple[str, ...]:
    """Forget documents that have a tombstone beside the data but none in the catalog; returns their ids.

    A restored backup of an older catalog brings such documents back. Usually there are none.
    """
    patterns = list_paths(lake.location, "tombstones/*.json")
    known = set(lake.sql("SELECT DISTINCT doc_id FROM store.tombstones")["doc_id"].to_pylist())
    missing = [path for path in patterns if PurePosixPath(path).stem not in known]
    reasons: dict[str, list[str]] = {}
    for path in missing:
        for content in read_all(lake.location, f"tombstones/{PurePosixPath(path).name}").values():
            reasons.setdefault(_reason(content), []).append(PurePosixPath(path).stem)
    for reason, doc_ids in reasons.items():
        forget(lake, doc_ids, reason=reason)
    return tuple(sorted(doc_id for doc_ids in reasons.values() for doc_id in doc_ids))


def _reason(note: bytes) -> str:
    """Why a document was forgotten; a damaged tombstone counts as one, because its file is named after the document."""
    try:
        return str(json.loads(note)["reason"])
    except (ValueError, KeyError, TypeError):
        return "unknown: the tombstone file is damaged"


def n_forgotten(lake: Lake) -> int:
    """How many documents are forgotten. It never falls."""
    return int(lake.row("SELECT count(DISTINCT doc_id) AS n FROM store.tombstones")["n"])


def n_removed(lake: Lake) -> int:
    """How many documents were forgotten when upkeep last removed such rows from the disk (see `note_removed`)."""
    row = lake.row(
        "SELECT max((detail ->> '$.forgotten')::BIGINT) AS n FROM store.run_events WHERE event = ?", [_REMOVED]
    )
    return int(row["n"] or 0)


def note_removed(lake: Lake, run_id: str, *, kind: str, forgotten: int) -> None:
    """Record that the rows of the first `forgotten` forgotten documents are in no file any more."""
    note_run(lake, run_id, _REMOVED, kind=kind, recipe_id=None, forgotten=forgotten)


def retire_recipe(lake: Lake, recipe_id: str) -> int:
    """Remove everything cached under a recipe; returns the number of sequences.

    A run of kind `retire` notes it, so that upkeep may remove its files. A new capture fills it again, and a rebuild
    takes it back as long as its files have not been swept.
    """
    if not lake.row("SELECT 1 AS present FROM store.recipes WHERE recipe_id = ?", [recipe_id]):
        raise LakeError(f"no recipe {recipe_id} in this lake: `logitlake show recipes` lists them")

    def delete(transaction: Transaction) -> int:
        connection = transaction.connection
        count = connection.execute("SELECT count(*) FROM store.sequences WHERE recipe_id = ?", [recipe_id]).fetchone()
        for name, table in TABLES.items():
            if table.retire:
                connection.execute(f"DELETE FROM store.{name} WHERE recipe_id = ?", [recipe_id])
        now = datetime.now(UTC)
        note = {"run_id": f"retire-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}", "happened_at": now}
        note |= {"kind": RETIRE_KIND, "recipe_id": recipe_id, "detail": "{}"}
        events = [{**note, "event": event} for event in ("started", "finished")]
        transaction.insert("run_events", pa.Table.from_pylist(events))
        return int(count[0]) if count else 0

    return lake.change(delete)


def students_that_saw(lake: Lake, doc_ids: Sequence[str]) -> list[str]:
    """Students whose row set holds one of these documents, by the row set's own rule, and their descendants."""
    direct = set()
    listed = lake.sql(
        "SELECT DISTINCT row_set_id FROM store.row_set_documents WHERE list_contains(?, doc_id)", [list(doc_ids)]
    )
    direct.update(listed["row_set_id"].to_pylist())
    for row_set in lake.sql("SELECT * FROM row_sets WHERE query IS NULL").to_pylist():
        condition = f"AND ({row_set['filter']})" if row_set["filter"] else ""
        seen = lake.row(
            f"""
            SELECT 1 AS present FROM (
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
