"""Are the statistics of files right? Queries pass over files and row groups by them, whatever the rows are.

The catalog holds counts and ranges of columns for each file, and a Parquet footer holds them for each row group. A
wrong one hides intact rows from some queries only: no hash of a row tells.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.connection.object_store import connect
from logitlake.storage.lake.lake import Lake
from logitlake.storage.schema.tables import NAME, TABLES, sql_type
from logitlake.storage.verification.catalog_files import listed_files
from logitlake.storage.verification.verify import columns_of_tables

_METADATA = f"__ducklake_metadata_{NAME}"


@dataclass(frozen=True, slots=True)
class FileCheck:
    """The state of one file of a table; `problem` is empty if its statistics are those of its rows."""

    table: str
    path: str
    problem: str


@dataclass(frozen=True, slots=True)
class _Claim:
    """What statistics say of a column in rows [first, end) of a file; ranges as text, None where they say nothing."""

    column: str
    where: str
    first: int
    end: int
    low: str | None
    high: str | None
    n_nulls: int | None


def check_statistics(lake: Lake) -> Iterator[FileCheck]:
    """Compare the statistics of every file of every table with its rows, a file at a time.

    Raises nothing for a damaged file, LakeError for a catalog that can't be read. Memory holds the columns of one file
    that are not lists.
    """
    present = columns_of_tables(lake)
    with connect(lake.location) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table in (name for name in TABLES if name in present and name != "guard"):
            noted = _noted(lake, table)
            for file in listed_files(lake, table):
                path = file["data_file"]
                yield FileCheck(table, path, _problem(connection, table, file, noted.get(PurePosixPath(path).name, [])))


def _noted(lake: Lake, table: str) -> dict[str, list[dict[str, Any]]]:
    """What the catalog notes of each file of a table and its columns, by the name of the file, which is random."""
    rows = lake.sql(
        f"""
        SELECT DISTINCT
            parse_filename(f.path) AS name, f.record_count, c.column_name, s.min_value, s.max_value, s.null_count
        FROM {_METADATA}.ducklake_data_file AS f
        JOIN {_METADATA}.ducklake_table AS t ON t.table_id = f.table_id AND t.table_name = ?
        LEFT JOIN {_METADATA}.ducklake_file_column_stats AS s ON s.data_file_id = f.data_file_id
        LEFT JOIN {_METADATA}.ducklake_column AS c
            ON c.column_id = s.column_id AND c.table_id = f.table_id AND c.parent_column IS NULL
            AND c.end_snapshot IS NULL
        WHERE f.end_snapshot IS NULL
        """,
        [table],
    )
    noted: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        noted.setdefault(row["name"], []).append(row)
    return noted


def _problem(
    connection: duckdb.DuckDBPyConnection, table: str, file: dict[str, Any], noted: list[dict[str, Any]]
) -> str:
    path = file["data_file"]
    kinds = {field.name: field.type for field in TABLES[table].stored if not pa.types.is_list(field.type)}
    try:
        sizes = connection.execute(
            "SELECT file_size_bytes, footer_size FROM parquet_file_metadata(?)", [path]
        ).fetchone()
        groups = connection.execute(
            """
            SELECT row_group_id, row_group_num_rows, path_in_schema, stats_min_value, stats_max_value, stats_null_count
            FROM parquet_metadata(?) ORDER BY row_group_id
            """,
            [path],
        ).fetchall()
        names = sorted({group[2] for group in groups} & kinds.keys())
        # Without a condition no statistics are asked: these are all rows.
        columns = ", ".join(f'"{name}"' for name in names)
        rows = connection.execute(f"SELECT {columns} FROM read_parquet(?)", [path]).to_arrow_table()
    except (duckdb.Error, pa.ArrowException, ValueError) as error:
        raise_for_lack_of_memory(error)
        return f"file {path}: can't be read ({str(error).splitlines()[0]}): {_ADVICE}"
    expected = (file["data_file_size_bytes"], file["data_file_footer_size"])
    if sizes != expected:
        return f"file {path}: expected size and footer of {expected} bytes, found {sizes}: {_ADVICE}"
    n_rows = {row["record_count"] for row in noted}
    if n_rows != {rows.num_rows}:
        return f"file {path}: the catalog expects {_text(n_rows)} rows, found {rows.num_rows}: {_ADVICE}"
    claims = [
        _Claim(row["column_name"], "the catalog", 0, rows.num_rows, *(row[n] for n in _STATISTICS))
        for row in noted
        if row["column_name"] in names
    ]
    claims += _claims_of_footer(groups, names)
    wrong = _wrong_claim(connection, kinds, rows, claims)
    return f"file {path}: {wrong}, so some queries pass over its rows: {_ADVICE}" if wrong else ""


_STATISTICS = ("min_value", "max_value", "null_count")
_ADVICE = "restore the file from a backup, or move the catalog away and run `logitlake rebuild`"


def _claims_of_footer(groups: list[tuple[Any, ...]], names: list[str]) -> list[_Claim]:
    first = dict[int, int]()
    n_rows = 0
    for number, count in {group[0]: group[1] for group in groups}.items():
        first[number] = n_rows
        n_rows += count
    return [
        _Claim(name, f"row group {number}", first[number], first[number] + count, low, high, n_nulls)
        for number, count, name, low, high, n_nulls in groups
        if name in names
    ]


def _wrong_claim(
    connection: duckdb.DuckDBPyConnection, kinds: dict[str, pa.DataType], rows: pa.Table, claims: list[_Claim]
) -> str:
    """The first claim that leaves out a value or a null which is there; empty if there is none."""
    texts = [(text, sql_type(kinds[claim.column])) for claim in claims for text in (claim.low, claim.high)]
    if not texts:
        return ""
    casts = ", ".join(f"TRY_CAST(? AS {kind})" for _, kind in texts)
    values = connection.execute(f"SELECT {casts}", [text for text, _ in texts]).fetchone()
    assert values is not None
    for claim, low, high in zip(claims, values[::2], values[1::2], strict=True):
        column = rows[claim.column].slice(claim.first, claim.end - claim.first)
        if claim.n_nulls is not None and claim.n_nulls != column.null_count:
            return f"{claim.where} counts {claim.n_nulls} nulls in {claim.column}, found {column.null_count}"
        actual = pc.min_max(column).as_py()
        if actual["min"] is None or (claim.low is None and claim.high is None):
            continue
        too_high = claim.low is not None and (low is None or low > actual["min"])
        too_low = claim.high is not None and (high is None or high < actual["max"])
        if too_high or too_low:
            expected, found = (claim.low, actual["min"]) if too_high else (claim.high, actual["max"])
            verb = "begins" if too_high else "ends"
            return f"{claim.where} says that {claim.column} {verb} at {expected!r}, found {found!r}"
    return ""


def _text(numbers: set[int]) -> str:
    return " or ".join(map(str, sorted(numbers))) or "no"
