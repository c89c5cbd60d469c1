"""Is what is stored what was committed? Rows against their checksums and hashes, documents against their rows."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from logitlake.storage.errors import IntegrityError, LakeError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.migration import table_columns
from logitlake.storage.lake.object_store import connect
from logitlake.storage.lake.row_hash import damaged_rows, describe
from logitlake.storage.lake.schema import SEQUENCES
from logitlake.storage.lake.tables import NAME, ROW_HASH, TABLES
from logitlake.storage.shards.writing import check_rows

_IN_SAMPLE = "('0x' || substr(md5(unit_id || ?), 1, 8))::BIGINT < ?::DOUBLE * 4294967296"
_BATCH_ROWS = 200_000
_NAMED_ROWS = 3


@dataclass(frozen=True, slots=True)
class UnitCheck:
    """The state of one work unit; `problem` is empty if it is intact."""

    unit_id: str
    recipe_id: str
    n_sequences: int
    problem: str


@dataclass(frozen=True, slots=True)
class TableCheck:
    """The state of one small table; `problem` is empty if it is intact. Rows of an older logitlake have no hash."""

    table: str
    n_rows: int
    n_without_hash: int
    problem: str


def verify(lake: Lake, *, sample: float = 1.0, salt: str = "") -> Iterator[UnitCheck]:
    """Check a share of the work units (all by default), one at a time: memory does not grow with the lake.

    The sample is the units whose salted id falls lowest by hash: the same ones for the same share and salt, others for
    another salt, such as the date. Raises nothing for a damaged unit.
    """
    units = lake.sql(
        f"""
        SELECT unit_id, recipe_id, sum(n_sequences)::BIGINT AS n_sequences
        FROM store.documents WHERE {_IN_SAMPLE} GROUP BY ALL ORDER BY unit_id
        """,
        [salt, sample],
    )
    for unit in units.to_pylist():
        yield UnitCheck(unit["unit_id"], unit["recipe_id"], unit["n_sequences"], _problem(lake, unit))


def count_units(lake: Lake, *, sample: float = 1.0, salt: str = "") -> int:
    """How many work units `verify` would check."""
    question = f"SELECT count(DISTINCT (unit_id, recipe_id)) AS n FROM store.documents WHERE {_IN_SAMPLE}"
    return int(lake.row(question, [salt, sample])["n"])


def verify_tables(lake: Lake, names: Collection[str] | None = None) -> Iterator[TableCheck]:
    """Check every row of the small tables (or of `names`), one table at a time. Raises nothing for a damaged table."""
    present = table_columns(lake.connection)
    for name, table in TABLES.items():
        if table.hashed and name in present and (names is None or name in names):
            yield _check_table(lake, name, present[name])


def _check_table(lake: Lake, name: str, present: set[str]) -> TableCheck:
    columns = ", ".join(f'"{field.name}"' for field in TABLES[name].stored if field.name in present)
    row_hash = "" if ROW_HASH in present else f", NULL::UBIGINT AS {ROW_HASH}"
    n_rows = n_without_hash = n_damaged = 0
    examples: list[str] = []
    try:
        for rows in lake.batches(f"SELECT {columns}{row_hash}, filename FROM {NAME}.store.{name}", _BATCH_ROWS):
            damaged = rows.filter(damaged_rows(rows))
            n_rows += rows.num_rows
            n_without_hash += rows[ROW_HASH].null_count
            n_damaged += damaged.num_rows
            examples += _examples(name, damaged)
    except LakeError as error:
        files = ", ".join(_unreadable_files(lake, name)) or "its files"
        return TableCheck(name, n_rows, n_without_hash, f"table {name}: {files} can't be read: {error}")
    problem = f"table {name}: {n_damaged} of {n_rows} rows do not match their hash: {'; '.join(examples[:_NAMED_ROWS])}"
    return TableCheck(name, n_rows, n_without_hash, problem if n_damaged else "")


def _unreadable_files(lake: Lake, name: str) -> list[str]:
    """The files of a table that are gone, torn, or not of the size that the catalog expects."""
    files = lake.sql(f"FROM ducklake_list_files('{NAME}', '{name}', schema => 'store')").to_pylist()
    with connect(lake.location) as connection:
        return [file["data_file"] for file in files if not _is_readable(connection, file)]


def _is_readable(connection: duckdb.DuckDBPyConnection, file: dict[str, Any]) -> bool:
    path, expected = file["data_file"], (file["data_file_size_bytes"], file["data_file_footer_size"])
    try:
        sizes = connection.execute(
            "SELECT file_size_bytes, footer_size FROM parquet_file_metadata(?)", [path]
        ).fetchone()
        for _ in connection.execute("FROM read_parquet(?)", [path]).to_arrow_reader(_BATCH_ROWS):
            pass
    except (duckdb.Error, pa.ArrowException):
        return False
    return sizes == expected


def _examples(name: str, damaged: pa.Table) -> list[str]:
    first = damaged.slice(0, _NAMED_ROWS)
    return [f"{key} in {file}" for key, file in zip(describe(name, first), first["filename"].to_pylist(), strict=True)]


def _problem(lake: Lake, unit: dict[str, object]) -> str:
    columns = ", ".join(f'"{name}"' for name in SEQUENCES.names)
    try:
        rows = lake.sql(f"SELECT {columns} FROM store.sequences WHERE unit_id = ?", [unit["unit_id"]])
        check_rows(rows, f"unit {unit['unit_id']}")
    except (LakeError, IntegrityError) as error:
        return str(error)
    if rows.num_rows == unit["n_sequences"]:
        return ""
    # A document may have been forgotten since the units were listed; one statement sees one moment.
    now = lake.row(
        """
        SELECT
            (SELECT coalesce(sum(n_sequences), 0)::BIGINT FROM store.documents WHERE unit_id = $unit) AS expected,
            (SELECT count(*) FROM store.sequences WHERE unit_id = $unit) AS present
        """,
        {"unit": unit["unit_id"]},
    )
    if now["expected"] == now["present"]:
        return ""
    return f"expected {now['expected']} sequences, found {now['present']}"
