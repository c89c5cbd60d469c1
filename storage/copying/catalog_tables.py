"""The tables of a DuckLake catalog, taken at one moment, cut down to what is current, and put into another catalog.

They are read and written as plain tables of SQLite or PostgreSQL, so that every row of the lake keeps its commit number
and every file its name. DuckDB translates the types: SQLite has neither times nor booleans.
"""

from dataclasses import dataclass

import duckdb

from logitlake.storage.connection.attach import attach
from logitlake.storage.connection.catalog_changes import catalog_transaction
from logitlake.storage.connection.extensions import load_extension
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import connect
from logitlake.storage.connection.open_connections import closing
from logitlake.storage.schema.tables import NAME

STAGED, _SOURCE, _TARGET = "staged", "source_catalog", "target_catalog"
_PREFIX = "ducklake_"
_INLINED = "ducklake_inlined_"
# A file's name in the catalog follows the folders of its schema and its table.
_FILES = """
    SELECT s.path || t.path || f.path AS name, f.file_size_bytes AS n_bytes
    FROM (
        SELECT table_id, path, file_size_bytes, path_is_relative FROM {0}.ducklake_data_file
        UNION ALL SELECT table_id, path, file_size_bytes, path_is_relative FROM {0}.ducklake_delete_file
    ) AS f
    JOIN {0}.ducklake_table AS t USING (table_id) JOIN {0}.ducklake_schema AS s USING (schema_id)
    WHERE f.path_is_relative::BOOLEAN
"""


@dataclass(frozen=True, slots=True)
class CatalogFile:
    """A Parquet file that the catalog names, under the data path."""

    name: str
    n_bytes: int


def attach_source(connection: duckdb.DuckDBPyConnection, location: LakeLocation) -> None:
    _attach(connection, location, _SOURCE, read_only=True)


def attach_target(connection: duckdb.DuckDBPyConnection, location: LakeLocation) -> None:
    """Attach a catalog that is written. It must be a DuckLake, empty or not."""
    _attach(connection, location, _TARGET, read_only=False)


def stage(connection: duckdb.DuckDBPyConnection) -> None:
    """Read the source's tables as they are at one moment, and keep what its newest snapshot shows.

    Older snapshots stay behind, because only they name files with documents that were forgotten.
    """
    connection.execute(f"ATTACH ':memory:' AS {STAGED}")
    with catalog_transaction(connection):
        for name in _tables(connection, _SOURCE):
            connection.execute(f"CREATE TABLE {STAGED}.{name} AS FROM {_SOURCE}.{name}")
    for name in _tables(connection, STAGED):
        if "end_snapshot" in _columns(connection, STAGED, name):
            connection.execute(f"DELETE FROM {STAGED}.{name} WHERE end_snapshot IS NOT NULL")
    for name in _tables(connection, STAGED):
        if "data_file_id" in _columns(connection, STAGED, name) and name != "ducklake_data_file":
            kept = f"SELECT data_file_id FROM {STAGED}.ducklake_data_file"
            connection.execute(f"DELETE FROM {STAGED}.{name} WHERE data_file_id NOT IN ({kept})")
    newest = f"SELECT max(snapshot_id) FROM {STAGED}.ducklake_snapshot"
    for name in ("ducklake_snapshot_changes", "ducklake_snapshot"):
        connection.execute(f"DELETE FROM {STAGED}.{name} WHERE snapshot_id < ({newest})")
    connection.execute(f"DELETE FROM {STAGED}.ducklake_files_scheduled_for_deletion")


def staged_files(connection: duckdb.DuckDBPyConnection) -> list[CatalogFile]:
    """The files that the staged catalog names, sorted."""
    rows = connection.execute(f"{_FILES.format(STAGED)} ORDER BY name").fetchall()
    return [CatalogFile(name, n_bytes) for name, n_bytes in rows]


def target_files(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """The names of the files that the target's catalog names, for any of its snapshots."""
    return {row[0] for row in connection.execute(_FILES.format(_TARGET)).fetchall()}


def has_tables(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the target holds a lake, and not only DuckLake's own tables."""
    row = connection.execute(f"SELECT count(*) FROM {_TARGET}.ducklake_table").fetchone()
    return bool(row and row[0])


def fingerprint(connection: duckdb.DuckDBPyConnection, *, of_target: bool) -> str:
    """What every commit changes: another one is at least another number or another time. Empty if there is none."""
    row = connection.execute(
        f"""
        SELECT format('{{}} {{}} {{}}', snapshot_id, epoch_us(snapshot_time::TIMESTAMPTZ), next_file_id)
        FROM {_TARGET if of_target else STAGED}.ducklake_snapshot ORDER BY snapshot_id DESC LIMIT 1
        """
    ).fetchone()
    return row[0] if row else ""


def replace_target(connection: duckdb.DuckDBPyConnection, data: str, expected: str) -> bool:
    """Put the staged tables in place of the target's, in one transaction; `data` is the data path of the copy.

    Returns False, and changes nothing, if the target does not have the fingerprint `expected` any more.
    """
    connection.execute(f"UPDATE {STAGED}.ducklake_metadata SET value = ? WHERE key = 'data_path'", [data])
    present, wanted = set(_tables(connection, _TARGET)), _tables(connection, STAGED)
    with catalog_transaction(connection):
        if fingerprint(connection, of_target=True) != expected:
            return False
        for name in present:
            if name.startswith(_INLINED) and name != "ducklake_inlined_data_tables":
                connection.execute(f"DROP TABLE {_TARGET}.{name}")
            else:
                connection.execute(f"DELETE FROM {_TARGET}.{name}")
        for name in wanted:
            if name.startswith(_INLINED) and name != "ducklake_inlined_data_tables":
                connection.execute(f"CREATE TABLE {_TARGET}.{name} AS FROM {STAGED}.{name}")
            else:
                columns = ", ".join(f'"{column}"' for column in _columns(connection, STAGED, name))
                connection.execute(f"INSERT INTO {_TARGET}.{name} ({columns}) SELECT {columns} FROM {STAGED}.{name}")
    return True


def remove_files(location: LakeLocation, names: list[str]) -> None:
    """Remove files that the catalog does not name, by DuckLake's own list of such files: it reaches buckets, too."""
    if not names:
        return
    with connect(location) as connection:
        attach_target(connection, location)
        connection.executemany(
            f"INSERT INTO {_TARGET}.ducklake_files_scheduled_for_deletion VALUES (?, ?, true, now())",
            [(number, name) for number, name in enumerate(names, start=1)],
        )
    with closing(attach(location, read_only=False)) as connection:
        connection.execute(f"CALL ducklake_cleanup_old_files('{NAME}', cleanup_all => true)")


def _attach(connection: duckdb.DuckDBPyConnection, location: LakeLocation, name: str, *, read_only: bool) -> None:
    file = location.catalog_file
    load_extension(connection, "sqlite_scanner" if file else "postgres_scanner")
    address = str(file) if file else location.catalog.removeprefix("postgres:")
    quoted = address.replace("'", "''")
    options = f"TYPE {'sqlite' if file else 'postgres'}{', READ_ONLY' * read_only}"
    connection.execute(f"ATTACH '{quoted}' AS {name} ({options})")


def _tables(connection: duckdb.DuckDBPyConnection, database: str) -> list[str]:
    rows = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = ? AND starts_with(table_name, ?) ORDER BY ALL",
        [database, _PREFIX],
    )
    return [row[0] for row in rows.fetchall()]


def _columns(connection: duckdb.DuckDBPyConnection, database: str, table: str) -> list[str]:
    rows = connection.execute(
        "SELECT column_name FROM duckdb_columns() WHERE (database_name, table_name) = (?, ?) ORDER BY column_index",
        [database, table],
    )
    return [row[0] for row in rows.fetchall()]
