"""One file of the catalog, row by row: which rows are intact, which are damaged, and what is wrong with the file."""

from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.connection.object_store import connect
from logitlake.storage.lake.lake import Lake
from logitlake.storage.recovery.salvage import POSITION, salvage
from logitlake.storage.schema.row_hash import damaged_rows
from logitlake.storage.schema.sequences import differing_rows
from logitlake.storage.schema.tables import TABLES
from logitlake.storage.verification.catalog_files import CatalogFile, has_expected_footer


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """The rows of a file that were not deleted: `intact` and `damaged` ones, by their hashes.

    `problem` says what is wrong with the file, and is empty if nothing is. `n_lost` counts the rows that are damaged or
    can't be read; None if the file does not tell. `n_live` is the number of rows that the catalog shows of it.
    `has_footer`: DuckLake can delete them. `catalog_problem`: every row is intact, and what the catalog says of
    the file is wrong.
    """

    file: CatalogFile
    intact: pa.Table
    damaged: pa.Table
    problem: str
    n_lost: int | None
    n_live: int
    has_footer: bool
    catalog_problem: bool = False


def examine_file(lake: Lake, file: CatalogFile) -> FileState:
    """Read a file and compare its rows with their hashes."""
    found = salvage(lake.location, file.table, file.path)
    problems = [found.problem] if found.problem else []
    rows = found.rows
    deleted, unreadable = _deleted_positions(lake, file)
    if unreadable:
        problems.append(f"its list of deleted rows {file.deletes} can't be read ({unreadable})")
    rows = rows.filter(pc.invert(pc.is_in(rows[POSITION], value_set=deleted)))
    n_readable = found.rows.num_rows + (found.n_unreadable or 0)
    if not found.problem and n_readable != file.n_rows:
        problems.append(f"expected {file.n_rows} rows, found {n_readable}")
    differing = differing_rows(rows) if file.table == "sequences" else _differing(file.table, rows)
    damaged = rows.filter(differing)
    if damaged.num_rows:
        problems.append(f"{damaged.num_rows} of {rows.num_rows} rows do not match their hash")
    expected = has_expected_footer(lake, file)
    # DuckLake must read such a file to delete its rows.
    has_footer = expected and not unreadable and not (found.problem and found.has_row_ids)
    catalog_problem = not problems and not expected
    if catalog_problem:
        problems.append("every row of it is intact, but it has not the size that the catalog expects")
    n_live = file.n_rows - len(deleted)
    return FileState(
        file=file,
        intact=rows.filter(pc.invert(differing)),
        damaged=damaged,
        problem="; ".join(problems),
        n_lost=None if found.n_unreadable is None else n_live - rows.num_rows + damaged.num_rows,
        n_live=n_live,
        has_footer=has_footer,
        catalog_problem=catalog_problem,
    )


def _differing(table: str, rows: pa.Table) -> pa.Array:
    """For each row of a small table, whether it does not match its hash, or has a null where none may be."""
    differing = damaged_rows(rows.drop_columns([POSITION]))
    for column in TABLES[table].columns:
        if not column.nullable:
            nulls = pa.concat_arrays([pa.array([], pa.bool_()), *pc.is_null(rows[column.name]).chunks])
            differing = pc.or_(differing, nulls)
    return differing


def _deleted_positions(lake: Lake, file: CatalogFile) -> tuple[pa.Array, str]:
    """The numbers of the rows that were deleted, and why they can't be told if they can't."""
    none = pa.array([], pa.int64())
    if file.deletes is None:
        return none, ""
    try:
        with connect(lake.location) as connection:
            positions = connection.execute("SELECT pos FROM read_parquet(?)", [file.deletes]).to_arrow_table()["pos"]
    except (duckdb.Error, pa.ArrowException) as error:
        raise_for_lack_of_memory(error)
        return none, str(error).splitlines()[0]
    return positions.combine_chunks().cast(pa.int64()), ""
