"""The Parquet files of the small tables, read without a catalog: which can be read, which of their rows are intact."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import duckdb
import numpy as np
import pyarrow as pa

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.connection.object_store import list_paths, removed_paths
from logitlake.storage.errors import LakeError
from logitlake.storage.schema.row_hash import describe, row_hashes
from logitlake.storage.schema.tables import ROW_HASH, TABLES, sql_type

_BATCH_ROWS = 500_000
DELETES_SUFFIX = "-delete.parquet"
# The column that DuckDB adds to the rows of files: no table may have one of this name.
_FILENAME = "filename"


def data_files(location: LakeLocation, table: str) -> list[str]:
    """A table's files, without the lists of deleted rows: tombstones tell what was deleted on purpose."""
    paths = list_paths(location, f"store/{table}/**/*.parquet")
    return [path for path in paths if not path.endswith(DELETES_SUFFIX)]


def unreadable_files(connection: duckdb.DuckDBPyConnection, name: str, paths: Sequence[str]) -> dict[str, str]:
    """The files of the table `name` that can't be read to their end, with the reason.

    One statement reads all of them; each is read alone only if that fails. A file that another process has removed
    meanwhile is not among them.
    """
    if not paths:
        return {}
    with suppress(duckdb.Error):
        _read_whole(connection, paths)
        if not _wrong_column(connection, name, paths):
            return {}
    problems = {}
    for path in paths:
        try:
            _read_whole(connection, [path])
            problem = _wrong_column(connection, name, [path])
        except duckdb.Error as error:
            raise_for_lack_of_memory(error)
            problem = "" if removed_paths(connection, [path]) else str(error).splitlines()[0]
        if problem:
            problems[path] = problem
    return problems


def _wrong_column(connection: duckdb.DuckDBPyConnection, name: str, paths: Sequence[str]) -> str:
    """Which column of these files is missing, of another type than in the table, or in DuckDB's way; empty if none."""
    described = connection.execute("DESCRIBE FROM read_parquet(?, union_by_name => true)", [list(paths)]).fetchall()
    stored = {column: "TIMESTAMPTZ" if kind == "TIMESTAMP WITH TIME ZONE" else kind for column, kind, *_ in described}
    if any(column.lower() == _FILENAME for column in stored):
        return f"column {_FILENAME}: expected none, found {stored.get(_FILENAME, 'one')}"
    for field in TABLES[name].stored:
        expected, found = sql_type(field.type), stored.get(field.name)
        if found != expected and not (found is None and field.nullable):
            return f"column {field.name}: expected {expected}, found {found or 'none'}"
    return ""


def intact_rows(
    connection: duckdb.DuckDBPyConnection, name: str, paths: Sequence[str], damage: dict[str, str]
) -> Iterator[pa.Table]:
    """The rows of files that can be read, each once, without those that no file holds with the right hash.

    A row of an older logitlake has no hash and counts as intact. Adds each wrong row to `damage`: where it is, and why.
    A file that another process removes meanwhile is left out. Raises LakeError for one that can't be read.
    """
    left = list(paths)
    while left:
        n_batches = 0
        try:
            for batch in _distinct_rows(connection, name, left):
                n_batches += 1
                yield _intact(name, pa.Table.from_batches([batch]), damage)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            # Every file has been read before the first batch is there.
            removed = removed_paths(connection, left) if not n_batches else set()
            if not removed:
                raise LakeError(f"table {name}: its files can't be read: {error}") from error
            left = [path for path in left if path not in removed]
        else:
            return


def _distinct_rows(connection: duckdb.DuckDBPyConnection, name: str, paths: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Each row with its hashes and the files that hold it."""
    files = "read_parquet(?, union_by_name => true, filename => true)"
    present = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {files}", [paths]).fetchall()}
    columns = ", ".join(f'"{column}"' for column in TABLES[name].columns.names if column in present)
    row_hash = ROW_HASH if ROW_HASH in present else "NULL::UBIGINT"
    query = f"""
        SELECT * EXCLUDE (_hash, _file), list(_hash ORDER BY _file) AS _hashes, list(_file ORDER BY _file) AS _files
        FROM (SELECT {columns}, {row_hash} AS _hash, min(filename) AS _file FROM {files} GROUP BY ALL)
        GROUP BY ALL
    """
    yield from connection.execute(query, [paths]).to_arrow_reader(_BATCH_ROWS)


def _intact(name: str, rows: pa.Table, damage: dict[str, str]) -> pa.Table:
    copies = rows["_hashes"].combine_chunks()
    files = rows["_files"].combine_chunks().flatten()
    rows = rows.drop_columns(["_hashes", "_files"])
    owner = np.repeat(np.arange(rows.num_rows), np.diff(copies.offsets.to_numpy()))
    stored = copies.flatten()
    has_hash = stored.is_valid().to_numpy(zero_copy_only=False)
    expected = row_hashes(rows).to_numpy()[owner] if rows.num_rows else np.array([], np.uint64)
    wrong = has_hash & (stored.fill_null(0).to_numpy() != expected)
    # A row without a hash is of an older logitlake, which had the same columns.
    wrong |= _wrong_nulls(name, rows)[owner]
    for place in np.flatnonzero(wrong).tolist():
        (key,) = describe(name, rows.slice(int(owner[place]), 1))
        damage[f"{files[place].as_py()}, {key}"] = "the row does not match its hash"
    keep = np.zeros(rows.num_rows, bool)
    keep[owner[~wrong]] = True
    return rows.filter(pa.array(keep))


def _wrong_nulls(name: str, rows: pa.Table) -> np.ndarray:
    """For each row, whether it has a null where the table allows none."""
    wrong = np.zeros(rows.num_rows, bool)
    for field in TABLES[name].columns:
        if not field.nullable and field.name in rows.column_names and rows[field.name].null_count:
            wrong |= rows[field.name].is_null().to_numpy()
    return wrong


def _read_whole(connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> None:
    connection.execute(
        "SELECT bit_xor(hash(t)) FROM read_parquet(?, union_by_name => true) AS t", [list(paths)]
    ).fetchall()
