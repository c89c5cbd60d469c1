"""Hostile shards and catalogs for tests/hostile_input.py: valid files that say what no lake would have written."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from logitlake.pipeline.reading.batches import TARGET_COLUMNS, make_batch
from logitlake.pipeline.reading.blocks import check_targets
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LogitlakeError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.schema.sequences import SEQUENCES
from logitlake.storage.schema.tables import TABLES
from logitlake.storage.shards.reading import read_shard_rows
from logitlake.storage.sql.session import ReadSession
from logitlake.storage.upkeep.sweeping import sweep
from logitlake.storage.verification.file_statistics import check_statistics
from logitlake.storage.verification.history import examine, unknown_files
from logitlake.storage.verification.verify import verify, verify_tables
from tests.strange_lake import make_strange_lake

# A rebuild takes a second: of this many shards, one meets a whole one.
_REBUILD_EVERY = 100
_VIEWS = ("documents", "students", "runs", "recipes")
_NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 64, 65535)
_REALS = (float("nan"), float("inf"), -0.0, 1e308)
_TEXTS = ("", "\0", "'", "../..", "x" * 100_000, "é🙂", "9" * 32, "None")


@cache
def _lake(root: Path) -> LakeLocation:
    """A small lake, made once for all cases of a run."""
    return make_strange_lake(root / "strange")


@cache
def _open_lake(root: Path) -> Lake:
    return Lake.open(_lake(root))


@cache
def _rows_of(root: Path, table: str) -> pa.Table:
    """Some rows of a table, as a shard or a file of a small table holds them."""
    (path, *_) = sorted((root / "strange" / "data" / "store" / table).rglob("*.parquet"))
    with pq.ParquetFile(path) as file:
        return file.read()


def shard_case(noise: random.Random, directory: Path, _: ReadSession) -> None:
    """A file of a table that says something else than a lake would: met by upkeep, by a reader, and by a rebuild."""
    root = directory.parent
    lake = _open_lake(root)
    table = noise.choice(("sequences", "sequences", noise.choice(sorted(set(TABLES) - {"guard", "lake_settings"}))))
    if not list((root / "strange" / "data" / "store" / table).rglob("*.parquet")):
        table = "sequences"
    path = root / "strange" / "data" / "store" / table / f"hostile-{noise.randrange(10**9)}.parquet"
    if table == "sequences":
        path = path.parent / "recipe_id=x" / path.name
        path.parent.mkdir(exist_ok=True)
    rows = _hostile_rows(noise, _rows_of(root, table))
    try:
        with suppress(pa.ArrowException):  # what no writer can write
            _write(noise, rows, path)
        if not path.exists() or not path.stat().st_size:
            return
        examine(lake, [str(path)])
        if table == "sequences":
            _read_as_a_reader(path, rows.num_rows)
        if noise.randrange(_REBUILD_EVERY) == 0:
            _rebuild_with(root / "rebuilt", lake.location, path)
    finally:
        path.unlink(missing_ok=True)


def _read_as_a_reader(path: Path, n_rows: int) -> None:
    if not n_rows:
        return
    places = pa.table({"filename": [str(path)] * n_rows, "file_row_number": np.arange(n_rows)})
    rows = read_shard_rows(places, (*TARGET_COLUMNS, "targets_hash"))
    check_targets(rows, "hostile")
    make_batch(rows)


def _rebuild_with(directory: Path, location: LakeLocation, path: Path) -> None:
    """A rebuild of the lake with the hostile file: no row of it that is wrong is taken."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(location.data, directory / "data")
    again = LakeLocation.resolve(directory)
    rebuild(again)
    with Lake.open(again) as lake:
        assert [check.problem for check in (*verify(lake), *verify_tables(lake)) if check.problem] == []


def _write(noise: random.Random, rows: pa.Table, path: Path) -> None:
    metadata = {"logitlake.format_version": noise.choice(("999", "", "x")), "logitlake.recipe": noise.choice(_TEXTS)}
    if noise.random() < 0.3:
        rows = rows.replace_schema_metadata(metadata)
    pq.write_table(
        rows,
        path,
        row_group_size=noise.choice((1, 3, 1000)),
        compression=noise.choice(("none", "zstd", "snappy")),
        use_dictionary=noise.choice((True, False)),
        write_statistics=noise.choice((True, False)),
        store_schema=noise.choice((True, False)),
    )


def _hostile_rows(noise: random.Random, rows: pa.Table) -> pa.Table:
    """Rows with one to three columns that lie, that are gone, of another type, twice, or of no rows at all."""
    for _ in range(noise.choice((1, 1, 2, 3))):
        names = rows.column_names
        name = noise.choice(names)
        at = names.index(name)
        match noise.randrange(8):
            case 0:
                rows = rows.remove_column(at) if len(names) > 1 else rows
            case 1:
                rows = rows.set_column(at, name, _other_type(noise, rows.num_rows))
            case 2:
                rows = rows.append_column(noise.choice((name, name.upper(), "x", "filename", "rowid")), rows.column(at))
            case 3:
                rows = rows.slice(0, 0)
            case 4:
                places = [noise.randrange(rows.num_rows) for _ in range(40)] if rows.num_rows else []
                rows = rows.take(pa.array(places, pa.int64()))
            case _:
                rows = rows.set_column(at, name, _other_values(noise, rows.column(at)))
    return rows


def _other_type(noise: random.Random, n: int) -> pa.Array:
    kinds: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.nulls(n),
        lambda: pa.array([noise.choice(_TEXTS) for _ in range(n)], pa.string()),
        lambda: pa.array([noise.choice(_NUMBERS) for _ in range(n)], pa.int64()),
        lambda: pa.array([noise.choice(_REALS) for _ in range(n)], pa.float64()),
        lambda: pa.array([[[[1]]]] * n, pa.list_(pa.list_(pa.list_(pa.int8())))),
        lambda: pa.array([{"a": 1}] * n, pa.struct([("a", pa.int8())])),
        lambda: pa.array([b"\xff\xfe"] * n, pa.binary()),
        lambda: pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int8()), pa.array(["y" * 2**20])),
    )
    return noise.choice(kinds)()


def _other_values(noise: random.Random, column: pa.ChunkedArray) -> pa.Array:
    """Values of the same type that are wrong: out of range, null, or lists of another length."""
    kind = column.type
    values: list[Any] = column.to_pylist()
    for place in noise.sample(range(len(values)), min(len(values), noise.choice((1, 3, 100)))):
        values[place] = _other_value(noise, kind, values[place])
    return pa.array(values, kind)


def _other_value(noise: random.Random, kind: pa.DataType, value: Any) -> Any:
    if noise.random() < 0.15:
        return None
    if pa.types.is_list(kind):
        items = list(value or [])
        inside = _other_value(noise, kind.value_type, items[0] if items else None)
        lists = ([], items[:-1], items * 2, [inside] * 1000, [*items[1:], inside], [None, *items[1:]])
        return noise.choice(lists)
    if pa.types.is_integer(kind):
        half = 2 ** (kind.bit_width - 1)
        low, high = (-half, half - 1) if pa.types.is_signed_integer(kind) else (0, 2 * half - 1)
        return min(max(noise.choice(_NUMBERS), low), high)
    if pa.types.is_floating(kind):
        return noise.choice(_REALS)
    return noise.choice(_TEXTS) if pa.types.is_string(kind) else value


def catalog_case(noise: random.Random, directory: Path, _: ReadSession) -> None:
    """A file in the place of a catalog, or a catalog with rows that no lake would hold."""
    root = directory.parent
    place = root / "hostile"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    catalog = place / "catalog.sqlite"
    outside = root / "outside.parquet"
    pq.write_table(pa.table({"doc_id": ["x"]}), outside)
    made = _lake(root)
    assert made.catalog_file is not None
    if noise.random() < 0.2:
        _foreign_file(noise, catalog)
    else:
        shutil.copyfile(made.catalog_file, catalog)
        with closing(sqlite3.connect(catalog)) as connection, suppress(sqlite3.Error):
            for _ in range(noise.choice((1, 1, 2, 5))):
                _change_catalog(noise, connection, outside)
            connection.commit()
    before = catalog.read_bytes()
    location = LakeLocation(catalog=f"sqlite:{catalog}", data=made.data)
    files = sorted(Path(made.data).rglob("*.parquet"))
    try:
        _use(noise, location)
    finally:
        # A damaged catalog never makes a command remove what it did not write, nor a file that is no catalog change.
        assert outside.exists() and files == sorted(Path(made.data).rglob("*.parquet"))
        if not before.startswith(b"SQLite format 3\0"):
            assert catalog.read_bytes() == before


def _use(noise: random.Random, location: LakeLocation) -> None:
    """What commands do: look, check, and sweep."""
    with Lake.open(location) as lake:
        errors = []
        for call in (
            *(lambda view=view: lake.sql(f"FROM {view} LIMIT 10") for view in _VIEWS),
            lambda: [*verify(lake), *verify_tables(lake), *check_statistics(lake)],
            lambda: examine(lake, unknown_files(lake)),
        ):
            try:
                call()  # type: ignore[no-untyped-call]
            except LogitlakeError as error:
                errors.append(error)
        if noise.random() < 0.3:
            sweep(lake, grace=timedelta(0), dry_run=True)
        if errors:
            raise errors[0]


def _foreign_file(noise: random.Random, catalog: Path) -> None:
    kind = noise.choice(("empty", "text", "noise", "header", "sqlite", "duckdb", "folder", "parquet"))
    if kind == "folder":
        catalog.mkdir()
        catalog.rmdir()
        catalog.write_bytes(b"")
    elif kind == "sqlite":
        with closing(sqlite3.connect(catalog)) as connection:
            names = ("guard", "ducklake_metadata", "ducklake_snapshot", "moz_places")
            connection.execute(f"CREATE TABLE {noise.choice(names)} (key TEXT, value TEXT)")
            connection.execute("CREATE TABLE x (y)")
            connection.commit()
    elif kind == "duckdb":
        duckdb.connect(str(catalog)).close()
    elif kind == "parquet":
        pq.write_table(SEQUENCES.empty_table(), catalog)
    else:
        contents = {"empty": b"", "text": b"lake: {path: x}\n", "noise": noise.randbytes(5000)}
        catalog.write_bytes(contents.get(kind, b"SQLite format 3\0" + noise.randbytes(4080)))


def _change_catalog(noise: random.Random, connection: sqlite3.Connection, outside: Path) -> None:
    """One change of the tables that DuckLake keeps: gone, emptied, or with a value that is wrong."""
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    table = noise.choice(tables)
    columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
    match noise.randrange(8):
        case 0:
            connection.execute(f'DROP TABLE "{table}"')
        case 1:
            connection.execute(f'DELETE FROM "{table}"')
        case 2:
            connection.execute(f'ALTER TABLE "{table}" DROP COLUMN "{noise.choice(columns)}"')
        case 3:
            paths = (str(outside), "../../outside.parquet", "/dev/null", "/etc/passwd", "", "s3://nowhere/x.parquet")
            connection.execute(
                "UPDATE ducklake_data_file SET path = ?, path_is_relative = ? WHERE data_file_id % 7 = ?",
                (noise.choice(paths), noise.randrange(2), noise.randrange(7)),
            )
        case 4:
            versions = ("99.0", "", "x", "0.1", None)
            connection.execute(
                "UPDATE ducklake_metadata SET value = ? WHERE key = 'version'", (noise.choice(versions),)
            )
        case _:
            value: Any = noise.choice((*_NUMBERS, *_TEXTS[:4], None, 2**62, 1.5, b"\xff"))
            connection.execute(
                f'UPDATE "{table}" SET "{noise.choice(columns)}" = ? WHERE rowid % 5 = ?', (value, noise.randrange(5))
            )
