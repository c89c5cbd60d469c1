"""A catalog made again from the data path alone, after the catalog was lost.

The description of a table says where its rows come from (`logitlake.storage.schema.tables.Rebuild`). A row that occurs
twice is taken once, because upkeep leaves the files that it merged for a while. A forgotten document stays forgotten.
A file that can't be read, and a document with a row that does not match its hash, is reported and left out; no file is
removed or changed.

A SQLite catalog is made beside its final place and renamed when it is complete. On a server the rows are one
transaction, and a catalog that is not complete is marked in `lake_settings`: every opening refuses it but a rebuild.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import connect, sync_directory
from logitlake.storage.errors import LakeError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import UNFINISHED, Lake, Transaction
from logitlake.storage.lake.last_commit import note_commit, noted_commit
from logitlake.storage.lake.locks import commit_lock, single_writer
from logitlake.storage.lake.migration import LAKE_NOTES, write_lake_note
from logitlake.storage.rebuild.absent_rows import absent_documents, take_tombstones
from logitlake.storage.rebuild.shards import Key, OnShard, ShardsReport, take_shards
from logitlake.storage.rebuild.split_units import count_again
from logitlake.storage.recovery.damaged_files import copy_aside
from logitlake.storage.recovery.notes import forgotten_documents, noted_recipes, read_settings
from logitlake.storage.recovery.repeated_records import without_repeated
from logitlake.storage.recovery.table_files import data_files, intact_rows, unreadable_files
from logitlake.storage.schema.tables import TABLES, Rebuild

_SUFFIX = ".rebuild"
_LOCK_SECONDS = 60.0


@dataclass(slots=True)
class RebuildReport:
    """What a rebuild took, and what it left out.

    `skipped` maps a file to a harmless reason: its rows are in other files, or were forgotten. `damaged` maps a file, a
    row or a note to what is wrong with it, and `n_lost_documents` counts the documents that only damaged rows hold.
    """

    n_shards: int = 0
    n_sequences: int = 0
    n_documents: int = 0
    n_lost_documents: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


def rebuild(location: LakeLocation, *, on_shard: OnShard = lambda done, total: None) -> RebuildReport:
    """Make the catalog from the files under the data path. Raises LakeError if there is a catalog, or nothing to read.

    `on_shard` is called with the number of shards that are done, and of all shards. Killed at any moment, there is no
    catalog or a complete one, and the next call begins anew.
    """
    report = RebuildReport()
    settings = read_settings(location, report.damaged)
    with single_writer(location, "rebuild"):
        if location.catalog_file is None:
            _rebuild(location, settings, on_shard, report)
        else:
            _check_place(location.catalog_file)
            with _new_catalog(location) as beside:
                _rebuild(beside, settings, on_shard, report)
        with Lake.open(location) as lake:
            note_commit(lake.connection, location, lake.commit_number)
    return report


def _check_place(catalog: Path) -> None:
    """A catalog is never overwritten, and the journal of another catalog would be taken for the new one's."""
    for path in (catalog, *_journals(catalog)):
        if path.exists():
            raise LakeError(f"{path} exists: move it away first; rebuild never overwrites a catalog")


def _journals(catalog: Path) -> list[Path]:
    return [catalog.with_name(catalog.name + suffix) for suffix in ("-wal", "-shm")]


@contextmanager
def _new_catalog(location: LakeLocation) -> Iterator[LakeLocation]:
    """The location with a catalog file beside the final one, which becomes the final one if nothing is raised."""
    final = location.catalog_file
    assert final is not None
    beside = final.with_name(final.name + _SUFFIX)
    _remove(beside)
    try:
        yield replace(location, catalog=f"sqlite:{beside}")
        # Everything in one file: a rename must not leave the last pages in a journal.
        with closing(sqlite3.connect(beside)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        reach("catalog-rebuilt")
        # A capture may be making a lake at the same moment.
        with commit_lock(location, _LOCK_SECONDS):
            _check_place(final)
            beside.replace(final)
        sync_directory(final.parent)
        reach("catalog-renamed")
    finally:
        _remove(beside)


def _remove(catalog: Path) -> None:
    lock = catalog.with_name(catalog.name + ".lock")
    for path in (catalog, *_journals(catalog), lock):
        path.unlink(missing_ok=True)


def _rebuild(location: LakeLocation, settings: Mapping[str, str], on_shard: OnShard, report: RebuildReport) -> None:
    with Lake.create(
        location,
        held_out_salt=settings["held_out_salt"],
        held_out_share=float(settings["held_out_share"]),
        created_at=settings.get("created_at"),
        over_data=True,
    ) as lake:
        _mark_unfinished(lake)
        _renew_lake_notes(lake, report)
        with lake.transaction() as transaction:
            _check_mark(transaction)
            for name, table in TABLES.items():
                if table.rebuild is Rebuild.FROM_FILES:
                    _take_rows(transaction, location, name, report)
            _take_recipes(transaction, location, report)
            forgotten = _forgotten(transaction, location, report)
            take_tombstones(transaction, location, forgotten)
            shards = take_shards(transaction, location, forgotten, on_shard)
            count_again(transaction, shards.split_units)
            _name_absent_documents(shards, absent_documents(transaction, location, forgotten))
            for unit_id in _finish(transaction, location, forgotten):
                report.skipped[f"unit {unit_id}"] = "no file holds its commit: it counts as committed by this rebuild"
        counts = lake.row(
            "SELECT count(*) AS documents, coalesce(sum(n_sequences), 0) AS sequences FROM store.documents"
        )
    _add(report, shards)
    report.n_documents, report.n_sequences = counts["documents"], counts["sequences"]


def _name_absent_documents(report: ShardsReport, absent: Mapping[str, set[Key]]) -> None:
    """Documents whose shard is gone; those of damaged shards are in the report already."""
    for unit_id, keys in absent.items():
        if gone := keys - report.lost:
            example = min(doc_id for _, doc_id in gone)
            report.damaged[f"unit {unit_id}"] = f"{len(gone)} of its documents are in no file, such as {example}"
            report.lost |= gone


def _add(report: RebuildReport, shards: ShardsReport) -> None:
    report.n_shards, report.n_lost_documents = shards.n_taken, len(shards.lost)
    report.skipped |= shards.skipped
    report.damaged |= shards.damaged


def _mark_unfinished(lake: Lake) -> None:
    """Let every opening refuse this catalog until the rebuild is complete; a lake that the rebuild made is marked."""
    if lake.row(f"SELECT 1 AS present FROM store.lake_settings WHERE name = '{UNFINISHED}'"):
        return
    if lake.row("SELECT 1 AS present FROM store.recipes UNION ALL SELECT 1 FROM store.documents LIMIT 1"):
        raise LakeError("the catalog holds a lake already: rebuild makes one in an empty database only")
    with lake.transaction() as transaction:
        transaction.insert("lake_settings", pa.table({"name": [UNFINISHED], "value": ["true"]}))


def _check_mark(transaction: Transaction) -> None:
    """On a server, another rebuild may have completed the catalog since it was opened: rows would come in twice."""
    mark = f"SELECT 1 FROM store.lake_settings WHERE name = '{UNFINISHED}'"
    if not transaction.connection.execute(mark).fetchone():
        raise LakeError("another rebuild has completed the catalog meanwhile: nothing is left to do")


def _renew_lake_notes(lake: Lake, report: RebuildReport) -> None:
    damaged = [path for name in LAKE_NOTES if (path := f"{lake.location.data}{name}") in report.damaged]
    for path in damaged:
        copy_aside(lake.location, path)
    if damaged:
        write_lake_note(lake.connection, lake.location)


def _take_rows(transaction: Transaction, location: LakeLocation, name: str, report: RebuildReport) -> None:
    paths = data_files(location, name)
    with connect(location) as connection:
        torn = unreadable_files(connection, name, paths)
        report.damaged |= torn
        readable = [path for path in paths if path not in torn]
        for rows in without_repeated(name, intact_rows(connection, name, readable, report.damaged)):
            transaction.insert(name, rows)


def _take_recipes(transaction: Transaction, location: LakeLocation, report: RebuildReport) -> None:
    """Recipes whose row was lost but whose note is there."""
    present = {row[0] for row in transaction.connection.execute("SELECT recipe_id FROM store.recipes").fetchall()}
    rows = [
        {"recipe_id": recipe_id, "recipe": recipe, "created_at": datetime.now(UTC)}
        for recipe_id, recipe in noted_recipes(location, report.damaged).items()
        if recipe_id not in present
    ]
    if rows:
        transaction.insert("recipes", pa.Table.from_pylist(rows))


def _forgotten(transaction: Transaction, location: LakeLocation, report: RebuildReport) -> pa.Array:
    """The documents that have a tombstone, beside the data or in the table."""
    rows = transaction.connection.execute("SELECT DISTINCT doc_id FROM store.tombstones").fetchall()
    doc_ids = forgotten_documents(location, report.damaged) | {row[0] for row in rows}
    return pa.array(sorted(doc_ids), pa.string())


def _finish(transaction: Transaction, location: LakeLocation, forgotten: pa.Array) -> list[str]:
    """Give units without a commit a number, raise the guard above all numbers, remove what was forgotten or retired.

    Returns the units that had no commit.
    """
    connection = transaction.connection
    commits = connection.execute(
        """
        SELECT
            (SELECT coalesce(max(commit_number), 0) FROM store.commits) + row_number() OVER (ORDER BY s.unit_id)
                AS commit_number,
            s.unit_id, s.recipe_id, 'rebuild' AS run_id, now() AS committed_at,
            count(DISTINCT s.doc_id) AS n_documents, count(*) AS n_sequences, sum(s.n_tokens)::BIGINT AS n_tokens,
            sum(s.n_targets)::BIGINT AS n_targets, 0::BIGINT AS n_bytes, 0::DOUBLE AS seconds
        FROM store.sequences AS s
        WHERE NOT EXISTS (FROM store.commits AS c WHERE c.unit_id = s.unit_id)
        GROUP BY s.unit_id, s.recipe_id
        """
    ).to_arrow_table()
    transaction.insert("commits", commits)
    connection.execute(
        """
        UPDATE store.guard SET commit_number = greatest(?, 1 + (
            SELECT coalesce(max(number), 0) FROM (
                SELECT max(commit_number) AS number FROM store.commits
                UNION ALL SELECT max(commit_number) FROM store.promotions
                UNION ALL SELECT max(commit_number) FROM store.traces
                UNION ALL SELECT max(commit_number) FROM store.verdicts
                UNION ALL SELECT max(up_to_commit) FROM store.row_sets
            )
        ))
        """,
        [noted_commit(connection, location)],
    )
    connection.register("forgotten_documents", pa.table({"doc_id": forgotten}))
    for name, table in TABLES.items():
        if table.forget and table.rebuild is Rebuild.FROM_FILES:
            for column in table.forgotten_by:
                condition = f"{column} IN (SELECT doc_id FROM forgotten_documents)"
                connection.execute(f"DELETE FROM store.{name} WHERE {condition}")
    connection.unregister("forgotten_documents")
    # The files do not tell that a recipe was retired; its shards are gone, and so must be its commits.
    connection.execute("DELETE FROM store.commits WHERE unit_id NOT IN (SELECT unit_id FROM store.documents)")
    connection.execute(f"DELETE FROM store.lake_settings WHERE name = '{UNFINISHED}'")
    return sorted(commits["unit_id"].to_pylist())
