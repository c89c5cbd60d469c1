"""Is what is stored what was committed? Rows against their checksums and hashes, documents against their rows."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import pyarrow as pa

from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.connection.object_store import connect
from logitlake.storage.errors import LakeError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.migration import table_columns
from logitlake.storage.schema.row_hash import damaged_rows, describe
from logitlake.storage.schema.sequences import differing_rows, stored_rows
from logitlake.storage.schema.tables import NAME, ROW_HASH, TABLES
from logitlake.storage.shards.writing import damage

_IN_SAMPLE = "('0x' || substr(md5(unit_id || ?), 1, 8))::BIGINT < ?::DOUBLE * 4294967296"
_BATCH_ROWS = 200_000
_NAMED_ROWS = 3


@dataclass(frozen=True, slots=True)
class UnitCheck:
    """The state of one work unit; `problem` is empty if it is intact.

    `n_without_hash` rows are of format 1: their checksum covers ids and lists only, not every column.
    """

    unit_id: str
    recipe_id: str
    n_sequences: int
    problem: str
    n_without_hash: int = 0


@dataclass(frozen=True, slots=True)
class TableCheck:
    """The state of one small table; `problem` is empty if it is intact. Rows of an older logitlake have no hash.

    `readable`: SQL can read the table, whatever its rows are.
    """

    table: str
    n_rows: int
    n_without_hash: int
    problem: str
    readable: bool = True


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
        yield _check_unit(lake, UnitCheck(**unit, problem=""))


def verify_units(lake: Lake, unit_ids: Collection[str]) -> Iterator[UnitCheck]:
    """Check these work units; one that the lake does not hold is passed over."""
    units = lake.sql(
        """
        SELECT unit_id, recipe_id, sum(n_sequences)::BIGINT AS n_sequences
        FROM store.documents WHERE list_contains(?, unit_id) GROUP BY ALL ORDER BY unit_id
        """,
        [sorted(unit_ids)],
    )
    for unit in units.to_pylist():
        yield _check_unit(lake, UnitCheck(**unit, problem=""))


def count_units(lake: Lake, *, sample: float = 1.0, salt: str = "") -> int:
    """How many work units `verify` would check."""
    question = f"SELECT count(DISTINCT (unit_id, recipe_id)) AS n FROM store.documents WHERE {_IN_SAMPLE}"
    return int(lake.row(question, [salt, sample])["n"])


def verify_tables(lake: Lake, names: Collection[str] | None = None) -> Iterator[TableCheck]:
    """Check every row of the small tables (or of `names`), one table at a time. Raises nothing for a damaged table.

    There is no sample of them: a row has no work unit of its own, and they are small beside the sequences.
    """
    present = columns_of_tables(lake)
    for name, table in TABLES.items():
        if table.hashed and name in present and (names is None or name in names):
            yield _check_table(lake, name, present[name])


def columns_of_tables(lake: Lake) -> dict[str, set[str]]:
    """The columns of each table that the lake has. Raises LakeError for a catalog that can't be read."""
    try:
        return table_columns(lake.connection)
    except duckdb.Error as error:
        raise_for_lack_of_memory(error)
        raise LakeError(f"the catalog can't be read: {str(error).splitlines()[0]}") from error


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
        return TableCheck(name, n_rows, n_without_hash, f"table {name}: {files} can't be read: {error}", False)
    problem = f"table {name}: {n_damaged} of {n_rows} rows do not match their hash: {'; '.join(examples[:_NAMED_ROWS])}"
    return TableCheck(name, n_rows, n_without_hash, problem if n_damaged else "")


def _unreadable_files(lake: Lake, name: str) -> list[str]:
    """The files of a table that are gone, torn, or not of the size that the catalog expects."""
    files = lake.sql(f"FROM ducklake_list_files('{NAME}', '{name}', schema => 'store')").to_pylist()
    with connect(lake.location) as connection:
        return [file["data_file"] or "a file without a name" for file in files if not _is_readable(connection, file)]


def _is_readable(connection: duckdb.DuckDBPyConnection, file: dict[str, Any]) -> bool:
    path, expected = file["data_file"], (file["data_file_size_bytes"], file["data_file_footer_size"])
    try:
        sizes = connection.execute(
            "SELECT file_size_bytes, footer_size FROM parquet_file_metadata(?)", [path]
        ).fetchone()
        for _ in connection.execute("FROM read_parquet(?)", [path]).to_arrow_reader(_BATCH_ROWS):
            pass
    except (duckdb.Error, pa.ArrowException) as error:
        raise_for_lack_of_memory(error)
        return False
    return sizes == expected


def _examples(name: str, damaged: pa.Table) -> list[str]:
    first = damaged.slice(0, _NAMED_ROWS)
    return [f"{key} in {file}" for key, file in zip(describe(name, first), first["filename"].to_pylist(), strict=True)]


def _check_unit(lake: Lake, unit: UnitCheck) -> UnitCheck:
    try:
        rows = stored_rows(lake.sql("FROM store.sequences WHERE unit_id = ?", [unit.unit_id]))
        problem = _damage(lake, rows, unit) or _count_problem(lake, rows.num_rows, unit)
    except (LakeError, ValueError, pa.ArrowException) as error:
        raise_for_lack_of_memory(error)
        return replace(unit, problem=f"unit {unit.unit_id}: its rows can't be read ({error})")
    return replace(unit, problem=problem, n_without_hash=rows["row_hash"].null_count)


def _damage(lake: Lake, rows: pa.Table, unit: UnitCheck) -> str:
    """Which of the rows are not what was written, and in which file the first of them is; empty if none."""
    damaged = rows.filter(differing_rows(rows))
    if not damaged.num_rows:
        return ""
    first = damaged.slice(0, 1).to_pylist()[0]
    parts = (first[name] for name in ("unit_id", "doc_id", "window_index"))
    key = " ".join(str(part) for part in parts if part is not None)
    # Compared as one text: DuckLake passes over files by the ranges of columns that it noted before the damage.
    file = lake.row(
        f"""
        SELECT filename FROM {NAME}.store.sequences
        WHERE recipe_id = ? AND concat_ws(' ', unit_id, doc_id, window_index) = ?
        """,
        [unit.recipe_id, key],
    )
    return damage(damaged, rows.num_rows, f"unit {unit.unit_id}, file {file.get('filename', 'unknown')}")


def _count_problem(lake: Lake, n_rows: int, unit: UnitCheck) -> str:
    """Whether the unit has as many rows as were committed; if not, a row whose unit_id was changed is looked for."""
    if n_rows == unit.n_sequences:
        return ""
    # A document may have been forgotten since the units were listed; one statement sees one moment.
    now = lake.row(
        """
        SELECT
            (SELECT coalesce(sum(n_sequences), 0)::BIGINT FROM store.documents WHERE unit_id = $unit) AS expected,
            (SELECT count(*) FROM store.sequences WHERE unit_id = $unit) AS present
        """,
        {"unit": unit.unit_id},
    )
    if now["expected"] == now["present"]:
        return ""
    of_documents = stored_rows(
        lake.sql(
            """
            FROM store.sequences WHERE recipe_id = $recipe AND unit_id || '' IS DISTINCT FROM $unit
            AND doc_id IN (SELECT doc_id FROM store.documents WHERE recipe_id = $recipe AND unit_id = $unit)
            """,
            {"recipe": unit.recipe_id, "unit": unit.unit_id},
        )
    )
    moved = _damage(lake, of_documents, unit)
    return "; ".join(filter(None, [f"expected {now['expected']} sequences, found {now['present']}", moved]))
