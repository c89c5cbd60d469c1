"""What can still be read of a damaged Parquet file: each row group by itself, without a catalog."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.connection.object_store import list_paths, read_all
from logitlake.storage.schema.sequences import SEQUENCES
from logitlake.storage.schema.tables import TABLES

# The number of a row in its file, from 0.
POSITION = "file_row_number"

_ROW_IDS = "_ducklake_internal_row_id"
_PARTITION = re.compile(r"/recipe_id=([^/]+)/")
# What pyarrow raises for bytes that are no Parquet; damage may also ask for more memory than there is.
_UNREADABLE = (OSError, pa.ArrowException, ValueError, MemoryError, OverflowError, KeyError)


@dataclass(frozen=True, slots=True)
class Salvage:
    """The rows of a file that can be read, with their `file_row_number`, and without any check of their hashes.

    `problem` says why the others can't be read, and is empty if all can; `n_unreadable` counts them: None if the file
    does not tell. `has_row_ids`: DuckLake numbers the rows by a column of the file.
    """

    rows: pa.Table
    n_unreadable: int | None = 0
    problem: str = ""
    has_row_ids: bool = False


def salvage(location: LakeLocation, table: str, path: str) -> Salvage:
    """Read what can be read of a file of the table `table`. Raises nothing for a damaged file, or one that is gone."""
    name = path.removeprefix(location.data)
    schema = _readable_schema(table)
    try:
        if not list_paths(location, name):
            return Salvage(schema.empty_table(), None, "the file is gone")
        content = read_all(location, name)[path]
    except (duckdb.Error, KeyError) as error:
        raise_for_lack_of_memory(error)
        return Salvage(schema.empty_table(), None, f"the file can't be read ({_first_line(error)})")
    try:
        with pq.ParquetFile(io.BytesIO(content)) as file:
            return _readable_groups(file, table, path, schema)
    except _UNREADABLE as error:
        raise_for_lack_of_memory(error)
        return Salvage(schema.empty_table(), None, f"no row can be read ({_first_line(error)})")


def _readable_groups(file: pq.ParquetFile, table: str, path: str, schema: pa.Schema) -> Salvage:
    parts, n_unreadable, problem = [schema.empty_table()], 0, ""
    for first, n_rows, number in _groups(file):
        try:
            rows = file.read_row_group(number)
            rows.validate(full=True)
            if rows.num_rows != n_rows:
                raise ValueError(f"expected {n_rows} rows in row group {number}, found {rows.num_rows}")
            parts.append(_complete(rows, table, path, first, schema))
        except _UNREADABLE as error:
            raise_for_lack_of_memory(error)
            n_unreadable += n_rows
            problem = problem or _first_line(error)
    problem = problem and f"{n_unreadable} rows can't be read ({problem})"
    return Salvage(pa.concat_tables(parts), n_unreadable, problem, _ROW_IDS in file.schema_arrow.names)


def _groups(file: pq.ParquetFile) -> Iterator[tuple[int, int, int]]:
    """First row, number of rows, and number of each row group."""
    first = 0
    for number in range(file.num_row_groups):
        n_rows = file.metadata.row_group(number).num_rows
        yield first, n_rows, number
        first += n_rows


def _readable_schema(table: str) -> pa.Schema:
    """The table's columns, every one of which may hold nulls, and the number of the row."""
    columns = SEQUENCES if table == "sequences" else TABLES[table].stored
    return pa.schema([*(field.with_nullable(True) for field in columns), pa.field(POSITION, pa.int64())])


def _complete(rows: pa.Table, table: str, path: str, first: int, schema: pa.Schema) -> pa.Table:
    """The rows in `schema`: a column of a later format is null, and the recipe of a shard is that of its folder."""
    partition = _PARTITION.search(path)
    if table == "sequences" and partition:
        recipe = pa.array([partition[1]] * rows.num_rows, pa.string())
        if "recipe_id" in rows.column_names:
            rows = rows.drop_columns(["recipe_id"])
        rows = rows.append_column("recipe_id", recipe)
    rows = rows.append_column(POSITION, pa.array(range(first, first + rows.num_rows), pa.int64()))
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(schema.names).cast(schema)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
