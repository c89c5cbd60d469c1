"""A catalog made again from the data path alone: for the day on which the catalog is lost.

Every table but `sequences` and `documents` only grows, so it is the union of its files. Shards explain themselves: rows
carry recipe, document, window and checksum. A row that stands twice (upkeep leaves the files it merged for a while) is
taken once; a forgotten document stays forgotten; a file that can't be read is reported and left alone.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.errors import FormatVersionError, IntegrityError, LakeError
from logitlake.storage.lake.creation import NAME
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.lake.object_store import connect, list_paths, put_bytes, read_all
from logitlake.storage.lake.schema import FORMAT_VERSION, SEQUENCES
from logitlake.storage.shards.writing import check_rows, encode_shard
from logitlake.storage.upkeep.compaction import MERGED_PREFIX
from logitlake.storage.writing.commits import register_shard

# What a rebuild takes as the union of files; documents follow from the sequences.
_GROWING_TABLES = (
    *("commits", "recipes", "document_sources", "vocabulary", "run_events", "row_sets", "students", "rejects"),
    *("promotions", "tombstones", "student_losses", "row_set_queries", "row_set_documents"),
)


OnShard = Callable[[int, int], None]


@dataclass(slots=True)
class RebuildReport:
    """What a rebuild took, and what it left: `skipped` maps a path to the reason."""

    n_shards: int = 0
    n_sequences: int = 0
    n_documents: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


def rebuild(location: LakeLocation, *, on_shard: OnShard = lambda done, total: None) -> RebuildReport:
    """Make the catalog of the shards under the data path. Raises LakeError if there is a catalog, or nothing to read.

    `on_shard` is told how many files are done, of how many.

    All of it is one transaction: killed half way, the catalog holds no rows and can be removed and made again.
    """
    if location.catalog_file and location.catalog_file.exists():
        raise LakeError(f"{location.catalog_file} exists: move it away first; rebuild never overwrites a catalog")
    settings = _settings(location)
    try:
        return _rebuild(location, settings, on_shard)
    except BaseException:
        _remove_what_was_begun(location)
        raise


def _remove_what_was_begun(location: LakeLocation) -> None:
    """A catalog of ours that holds nothing would stand in the way of the next attempt."""
    if location.catalog_file:
        for suffix in ("", "-wal", "-shm"):
            location.catalog_file.with_name(location.catalog_file.name + suffix).unlink(missing_ok=True)


def _rebuild(location: LakeLocation, settings: dict[str, str], on_shard: OnShard) -> RebuildReport:
    report = RebuildReport()
    salt, share = settings["held_out_salt"], float(settings["held_out_share"])
    with Lake.create(location, held_out_salt=salt, held_out_share=share, over_data=True) as lake:
        if lake.row("SELECT 1 AS found FROM store.recipes UNION ALL SELECT 1 FROM store.documents LIMIT 1"):
            raise LakeError("the catalog holds a lake already: rebuild makes one in an empty database only")
        shards = _data_files(location, "sequences")
        forgotten = _forgotten(location)
        with lake.transaction() as transaction:
            for table in _GROWING_TABLES:
                _take_union(transaction, location, table)
            _take_recipes(transaction, location)
            for done, path in enumerate(_merged_first(shards), start=1):
                _take_shard(transaction, location, path, forgotten, report)
                on_shard(done, len(shards))
            _finish(transaction)
        counts = lake.row(
            "SELECT count(*) AS documents, coalesce(sum(n_sequences), 0) AS sequences FROM store.documents"
        )
    report.n_documents, report.n_sequences = counts["documents"], counts["sequences"]
    return report


def _settings(location: LakeLocation) -> dict[str, str]:
    notes = read_all(location, "lake.json") if list_paths(location, "lake.json") else {}
    if not notes:
        raise LakeError(f"{location.data}: no lake.json here, so this is not the data path of a lake; check lake.data")
    settings: dict[str, str] = json.loads(next(iter(notes.values())))
    version = int(settings["format_version"])
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{location.data} has format version {version}, this logitlake reads up to {FORMAT_VERSION}: upgrade it"
        )
    return settings


def _data_files(location: LakeLocation, table: str) -> list[str]:
    """A table's files without the lists of deleted rows: what was deleted on purpose has a tombstone."""
    paths = list_paths(location, f"store/{table}/**/*.parquet")
    return [path for path in paths if not path.endswith("-delete.parquet")]


def _forgotten(location: LakeLocation) -> pa.Array:
    notes = read_all(location, "tombstones/*.json") if list_paths(location, "tombstones/*.json") else {}
    return pa.array(sorted({json.loads(note)["doc_id"] for note in notes.values()}), pa.string())


def _take_union(transaction: Transaction, location: LakeLocation, table: str) -> None:
    paths = _data_files(location, table)
    if not paths:
        return
    connection = transaction.connection
    columns = [row[0] for row in connection.execute(f"DESCRIBE {NAME}.store.{table}").fetchall()]
    names = ", ".join(f'"{column}"' for column in columns)
    connection.execute(
        f"INSERT INTO {NAME}.store.{table} BY NAME SELECT DISTINCT {names} FROM read_parquet(?, union_by_name => true)",
        [paths],
    )


def _take_recipes(transaction: Transaction, location: LakeLocation) -> None:
    """Recipes whose row was lost but whose file is there."""
    if not list_paths(location, "recipes/*.json"):
        return
    for path, note in read_all(location, "recipes/*.json").items():
        transaction.connection.execute(
            """
            INSERT INTO store.recipes SELECT ?, ?, now()
            WHERE NOT EXISTS (FROM store.recipes WHERE recipe_id = ?)
            """,
            [Path(path).stem, note.decode(), Path(path).stem],
        )


def _merged_first(paths: list[str]) -> list[str]:
    """Files that compaction wrote come first: they cover the ones they were merged from."""
    return sorted(paths, key=lambda path: (not Path(path).name.startswith((MERGED_PREFIX, "ducklake-")), path))


def _take_shard(
    transaction: Transaction, location: LakeLocation, path: str, forgotten: pa.Array, report: RebuildReport
) -> None:
    try:
        rows, compacted = _read(location, path)
    except (duckdb.Error, pa.ArrowInvalid, IntegrityError, ValueError) as error:
        report.skipped[path] = str(error).splitlines()[0]
        return
    fresh = _fresh(transaction, rows, forgotten)
    if not fresh.num_rows:
        report.skipped[path] = "every row is forgotten, or stands in another file"
        return
    if compacted or fresh.num_rows < rows.num_rows:
        path = _rewrite(transaction, location, path, fresh)
    register_shard(transaction, path, fresh)
    report.n_shards += 1


def _fresh(transaction: Transaction, rows: pa.Table, forgotten: pa.Array) -> pa.Table:
    """The rows whose document is neither forgotten nor there already under the same recipe."""
    rows = rows.filter(pc.invert(pc.is_in(rows["doc_id"], value_set=forgotten)))
    connection = transaction.connection
    connection.register("incoming_rows", rows)
    fresh = connection.execute(
        """
        SELECT i.* FROM incoming_rows AS i
        WHERE NOT EXISTS (FROM store.documents AS d WHERE (d.doc_id, d.recipe_id) = (i.doc_id, i.recipe_id))
        """
    ).to_arrow_table()
    connection.unregister("incoming_rows")
    return fresh.cast(SEQUENCES).sort_by(
        [("recipe_id", "ascending"), ("doc_id", "ascending"), ("window_index", "ascending")]
    )


def _read(location: LakeLocation, path: str) -> tuple[pa.Table, bool]:
    """The checked rows of one file, and whether compaction wrote it. On a connection of its own: an error here must not
    end the transaction."""
    names = ", ".join(f'"{name}"' for name in SEQUENCES.names)
    with connect(location) as connection:
        rows = connection.execute(f"SELECT {names} FROM read_parquet(?)", [path]).to_arrow_table().cast(SEQUENCES)
        columns = {row[0] for row in connection.execute("SELECT name FROM parquet_schema(?)", [path]).fetchall()}
    check_rows(rows, path)
    return rows, any(column.startswith("_ducklake_internal") for column in columns)


def _rewrite(transaction: Transaction, location: LakeLocation, path: str, rows: pa.Table) -> str:
    """A shard of some rows of a file, under a name of its own; the old file becomes an orphan for upkeep to sweep."""
    recipe_id = rows["recipe_id"][0].as_py()
    found = transaction.connection.execute(
        "SELECT recipe FROM store.recipes WHERE recipe_id = ?", [recipe_id]
    ).fetchone()
    recipe = json.loads(found[0]) if found else {}
    name = location.new_shard_path(recipe_id, f"rebuilt-{Path(path).stem}").removeprefix(location.data)
    return put_bytes(location, name, encode_shard(rows, recipe))


def _finish(transaction: Transaction) -> None:
    """Give units without a commit a number of their own, and raise the guard above them all."""
    connection = transaction.connection
    connection.execute(
        """
        INSERT INTO store.commits
        SELECT
            (SELECT coalesce(max(commit_number), 0) FROM store.commits) + row_number() OVER (ORDER BY s.unit_id),
            s.unit_id, s.recipe_id, 'rebuild', now(), count(DISTINCT s.doc_id), count(*), sum(s.n_tokens),
            sum(s.n_targets), 0, 0
        FROM store.sequences AS s
        WHERE NOT EXISTS (FROM store.commits AS c WHERE c.unit_id = s.unit_id)
        GROUP BY s.unit_id, s.recipe_id
        """
    )
    for table in ("document_sources", "student_losses"):
        connection.execute(f"DELETE FROM store.{table} WHERE doc_id IN (SELECT doc_id FROM store.tombstones)")
    connection.execute("DELETE FROM store.commits WHERE unit_id NOT IN (SELECT unit_id FROM store.documents)")
    connection.execute(
        """
        UPDATE store.guard SET commit_number = 1 + (
            SELECT coalesce(max(number), 0) FROM (
                SELECT max(commit_number) AS number FROM store.commits
                UNION ALL SELECT max(commit_number) FROM store.promotions
                UNION ALL SELECT max(up_to_commit) FROM store.row_sets
            )
        )
        """
    )
