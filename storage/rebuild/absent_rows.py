"""What a rebuild can tell of files that are gone: documents that no shard holds, tombstones that no table holds."""

import json
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import connect, list_paths, read_all
from logitlake.storage.lake.lake import Transaction
from logitlake.storage.rebuild.shards import Key
from logitlake.storage.recovery.table_files import data_files, intact_rows, unreadable_files
from logitlake.storage.writing.runs import RETIRE_KIND

_TOMBSTONES = "tombstones/*.json"
_LOST = "unknown: the row of the tombstone was lost"


def absent_documents(transaction: Transaction, location: LakeLocation, forgotten: pa.Array) -> dict[str, set[Key]]:
    """The documents, by work unit, that the files of the table `documents` name and no shard holds, although they were
    neither forgotten nor retired with their recipe. Asked when all shards are taken."""
    connection = transaction.connection
    paths = data_files(location, "documents")
    absent: dict[str, set[Key]] = {}
    with connect(location) as files:
        torn = unreadable_files(files, "documents", paths)
        for rows in intact_rows(files, "documents", [path for path in paths if path not in torn], {}):
            connection.register("named_documents", rows.select(["recipe_id", "doc_id", "unit_id"]))
            connection.register("forgotten_documents", pa.table({"doc_id": forgotten}))
            found = connection.execute(
                """
                SELECT n.unit_id, n.recipe_id, n.doc_id FROM named_documents AS n
                LEFT JOIN (SELECT unit_id, max(committed_at) AS at FROM store.commits GROUP BY ALL) AS c USING (unit_id)
                LEFT JOIN (
                    SELECT recipe_id, max(happened_at) AS at FROM store.run_events WHERE kind = ? GROUP BY ALL
                ) AS r USING (recipe_id)
                WHERE NOT EXISTS (
                    FROM store.documents AS d WHERE (d.doc_id, d.recipe_id) = (n.doc_id, n.recipe_id)
                )
                AND n.doc_id NOT IN (SELECT doc_id FROM forgotten_documents)
                AND (r.at IS NULL OR c.at > r.at)
                """,
                [RETIRE_KIND],
            ).fetchall()
            connection.unregister("named_documents")
            connection.unregister("forgotten_documents")
            for unit_id, recipe_id, doc_id in found:
                absent.setdefault(unit_id, set()).add((recipe_id, doc_id))
    return absent


def take_tombstones(transaction: Transaction, location: LakeLocation, forgotten: pa.Array) -> None:
    """Rows of the table `tombstones` for forgotten documents that have none, from the notes beside the data."""
    present = {row[0] for row in transaction.connection.execute("SELECT doc_id FROM store.tombstones").fetchall()}
    missing = [doc_id for doc_id in forgotten.to_pylist() if doc_id not in present]
    if not missing:
        return
    notes = read_all(location, _TOMBSTONES) if list_paths(location, _TOMBSTONES) else {}
    by_document = {PurePosixPath(path).stem: content for path, content in notes.items()}
    rows = [{"doc_id": doc_id, **_said(by_document.get(doc_id, b""))} for doc_id in missing]
    transaction.insert("tombstones", pa.Table.from_pylist(rows))


def _said(note: bytes) -> dict[str, Any]:
    """Why and when a document was forgotten; of a damaged note, that it is not known and today."""
    try:
        content = json.loads(note)
        return {"reason": str(content["reason"]), "forgotten_at": datetime.fromisoformat(content["forgotten_at"])}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {"reason": _LOST, "forgotten_at": datetime.now(UTC)}
