"""A catalog made again from the data path alone, after the catalog was lost.

The description of a table says where its rows come from (`logitlake.storage.lake.tables.Rebuild`). A row that occurs
twice is taken once, because upkeep leaves the files that it merged for a while. A forgotten document stays forgotten.
A file that can't be read, and a row that does not match its checksum or hash, is reported and left out.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.errors import FormatVersionError, IntegrityError, LakeError
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.lake.object_store import connect, list_paths, put_bytes, read_all
from logitlake.storage.lake.row_hash import damaged_rows, describe
from logitlake.storage.lake.schema import FORMAT_VERSION, complete_rows, with_hashes
from logitlake.storage.lake.tables import ROW_HASH, TABLES, Rebuild
from logitlake.storage.shards.writing import check_rows, encode_shard
from logitlake.storage.upkeep.compaction import MERGED_PREFIX
from logitlake.storage.writing.commits import register_shard

_BATCH_ROWS = 500_000

OnShard = Callable[[int, int], None]


@dataclass(slots=True)
class RebuildReport:
    """What a rebuild took, and what it left out: `skipped` maps a path to the reason."""

    n_shards: int = 0
    n_sequences: int = 0
    n_documents: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


def rebuild(location: LakeLocation, *, on_shard: OnShard = lambda done, total: None) -> RebuildReport:
    """Make the catalog from the files under the data path. Raises LakeError if there is a catalog, or nothing to read.

    `on_shard` is called with the number of shards that are done, and of all shards. Everything is one transaction:
    killed before its end, the catalog holds no rows and can be removed and made again.
    """
    if location.catalog_file and location.catalog_file.exists():
        raise LakeError(f"{location.catalog_file} exists: move it away first; rebuild never overwrites a catalog")
    settings = _settings(location)
    try:
        return _rebuild(location, settings, on_shard)
    except BaseException:
        _remove_catalog(location)
        raise


def _remove_catalog(location: LakeLocation) -> None:
    """Remove the empty catalog of a rebuild that failed: the next attempt refuses to overwrite a catalog."""
    if location.catalog_file:
        for suffix in ("", "-wal", "-shm"):
            location.catalog_file.with_name(location.catalog_file.name + suffix).unlink(missing_ok=True)


def _rebuild(location: LakeLocation, settings: dict[str, str], on_shard: OnShard) -> RebuildReport:
    report = RebuildReport()
    with Lake.create(
        location,
        held_out_salt=settings["held_out_salt"],
        held_out_share=float(settings["held_out_share"]),
        created_at=settings.get("created_at"),
        over_data=True,
    ) as lake:
        if lake.row("SELECT 1 AS present FROM store.recipes UNION ALL SELECT 1 FROM store.documents LIMIT 1"):
            raise LakeError("the catalog holds a lake already: rebuild makes one in an empty database only")
        shards = _data_files(location, "sequences")
        forgotten = _forgotten(location)
        with lake.transaction() as transaction:
            for name, table in TABLES.items():
                if table.rebuild is Rebuild.FROM_FILES:
                    _take_union(transaction, location, name, report)
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
    """A table's files, without the lists of deleted rows: tombstones tell what was deleted on purpose."""
    paths = list_paths(location, f"store/{table}/**/*.parquet")
    return [path for path in paths if not path.endswith("-delete.parquet")]


def _forgotten(location: LakeLocation) -> pa.Array:
    notes = read_all(location, "tombstones/*.json") if list_paths(location, "tombstones/*.json") else {}
    return pa.array(sorted({json.loads(note)["doc_id"] for note in notes.values()}), pa.string())


def _take_union(transaction: Transaction, location: LakeLocation, name: str, report: RebuildReport) -> None:
    with connect(location) as connection:
        for rows in _distinct_rows(connection, name, _readable(connection, _data_files(location, name), report)):
            damaged = damaged_rows(rows)
            wrong = rows.filter(damaged)
            for path, key in zip(wrong["filename"].to_pylist(), describe(name, wrong), strict=True):
                report.skipped[f"{path}, {key}"] = "the row does not match its hash"
            transaction.insert(name, rows.filter(pc.invert(damaged)))


def _readable(connection: duckdb.DuckDBPyConnection, paths: list[str], report: RebuildReport) -> list[str]:
    """The files whose Parquet footer can be read. One statement for all of them, unless there is a torn one."""
    with suppress(duckdb.Error):
        connection.execute("SELECT count(*) FROM parquet_schema(?)", [paths])
        return paths
    readable = []
    for path in paths:
        try:
            connection.execute("SELECT count(*) FROM parquet_schema(?)", [path])
        except duckdb.Error as error:
            report.skipped[path] = str(error).splitlines()[0]
        else:
            readable.append(path)
    return readable


def _distinct_rows(connection: duckdb.DuckDBPyConnection, name: str, paths: list[str]) -> Iterator[pa.Table]:
    """The rows of a table's files without duplicates, each with one file that holds it."""
    if not paths:
        return
    files = "read_parquet(?, union_by_name => true, filename => true)"
    present = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {files}", [paths]).fetchall()}
    columns = ", ".join(f'"{column}"' for column in TABLES[name].columns.names if column in present)
    row_hash = ROW_HASH if ROW_HASH in present else "NULL::UBIGINT"
    query = f"SELECT {columns}, max({row_hash}) AS {ROW_HASH}, min(filename) AS filename FROM {files} GROUP BY ALL"
    for batch in connection.execute(query, [paths]).to_arrow_reader(_BATCH_ROWS):
        yield pa.Table.from_batches([batch])


def _take_recipes(transaction: Transaction, location: LakeLocation) -> None:
    """Recipes whose row was lost but whose note is there."""
    if not list_paths(location, "recipes/*.json"):
        return
    present = transaction.connection.execute("SELECT recipe_id FROM store.recipes").fetchall()
    rows = [
        {"recipe_id": Path(path).stem, "recipe": note.decode(), "created_at": datetime.now(UTC)}
        for path, note in read_all(location, "recipes/*.json").items()
        if (Path(path).stem,) not in present
    ]
    if rows:
        transaction.insert("recipes", pa.Table.from_pylist(rows))


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
        report.skipped[path] = "every row was forgotten or is in another file"
        return
    if compacted or fresh.num_rows < rows.num_rows:
        path = _rewrite(transaction, location, path, fresh)
    register_shard(transaction, path, fresh)
    report.n_shards += 1


def _fresh(transaction: Transaction, rows: pa.Table, forgotten: pa.Array) -> pa.Table:
    """The rows whose document is not forgotten, and not in the catalog yet under the same recipe."""
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
    return complete_rows(fresh).sort_by(
        [("recipe_id", "ascending"), ("doc_id", "ascending"), ("window_index", "ascending")]
    )


def _read(location: LakeLocation, path: str) -> tuple[pa.Table, bool]:
    """The checked rows of one file, and whether DuckLake wrote it. On a connection of its own: an error here must not
    end the transaction."""
    with connect(location) as connection:
        rows = complete_rows(connection.execute("FROM read_parquet(?)", [path]).to_arrow_table())
        columns = {row[0] for row in connection.execute("SELECT name FROM parquet_schema(?)", [path]).fetchall()}
    check_rows(rows, path)
    return rows, any(column.startswith("_ducklake_internal") for column in columns)


def _rewrite(transaction: Transaction, location: LakeLocation, path: str, rows: pa.Table) -> str:
    """A shard of some rows of a file, under a new name; nothing names the old file then, and upkeep sweeps it."""
    recipe_id = rows["recipe_id"][0].as_py()
    row = transaction.connection.execute("SELECT recipe FROM store.recipes WHERE recipe_id = ?", [recipe_id]).fetchone()
    recipe = json.loads(row[0]) if row else {}
    name = location.new_shard_path(recipe_id, f"rebuilt-{Path(path).stem}").removeprefix(location.data)
    return put_bytes(location, name, encode_shard(with_hashes(rows), recipe))


def _finish(transaction: Transaction) -> None:
    """Give units without a commit a number, raise the guard above all numbers, remove what was forgotten or retired."""
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
        UPDATE store.guard SET commit_number = 1 + (
            SELECT coalesce(max(number), 0) FROM (
                SELECT max(commit_number) AS number FROM store.commits
                UNION ALL SELECT max(commit_number) FROM store.promotions
                UNION ALL SELECT max(up_to_commit) FROM store.row_sets
            )
        )
        """
    )
    for name, table in TABLES.items():
        if table.forget and table.rebuild is Rebuild.FROM_FILES:
            connection.execute(f"DELETE FROM store.{name} WHERE doc_id IN (SELECT doc_id FROM store.tombstones)")
    # The files do not tell that a recipe was retired; its shards are gone, and so must be its commits.
    connection.execute("DELETE FROM store.commits WHERE unit_id NOT IN (SELECT unit_id FROM store.documents)")
