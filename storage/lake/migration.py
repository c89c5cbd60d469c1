"""Bringing the lake of an older logitlake up to the tables, columns and views of this one.

Opening a lake for writing adds what is missing: that takes no longer for a large lake, since no row is touched. The row
hashes of older rows are added by `maintain` (`logitlake.storage.upkeep.hashing`). A lake that is opened for reading is
not changed: its session gets the missing columns and the views in its own memory (`logitlake.storage.lake.overlay`).
"""

import json
from dataclasses import dataclass

import duckdb

from logitlake.storage.connection.catalog_changes import catalog_transaction, repeat_if_overtaken
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import list_paths, read_all, write_note
from logitlake.storage.errors import FormatVersionError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake_settings import read_lake_settings
from logitlake.storage.lake.views import make_views, views_are_current
from logitlake.storage.schema.sequences import FORMAT_VERSION
from logitlake.storage.schema.tables import NAME, TABLES, create_statements, sql_type

# The note that a rebuild needs, twice: it is small, and nothing else beside the data tells the held-out rule.
LAKE_NOTES = ("lake.json", "lake-copy.json")
_NOTED_SETTINGS = ("held_out_salt", "held_out_share", "created_at")


@dataclass(frozen=True, slots=True)
class Missing:
    """What a lake lacks: whole tables, columns (table, column, SQL type), the format version of this logitlake."""

    tables: tuple[str, ...]
    columns: tuple[tuple[str, str, str], ...]
    version: bool

    def __bool__(self) -> bool:
        return bool(self.tables or self.columns or self.version)


def missing_parts(connection: duckdb.DuckDBPyConnection) -> Missing:
    """What the tables of an attached lake lack. Raises FormatVersionError for a lake of a newer logitlake."""
    version = check_format(connection)
    present = table_columns(connection)
    return Missing(
        tables=tuple(name for name in TABLES if name not in present),
        columns=tuple(
            (name, field.name, sql_type(field.type))
            for name, table in TABLES.items()
            for field in table.stored
            if name in present and field.name not in present[name]
        ),
        version=version < FORMAT_VERSION,
    )


def is_current(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether `migrate` would change nothing. Raises FormatVersionError for a lake of a newer logitlake."""
    return not missing_parts(connection) and views_are_current(connection)


def migrate(connection: duckdb.DuckDBPyConnection, location: LakeLocation) -> None:
    """Add missing tables, columns and views, and raise the format version; the caller holds the commit lock.

    `lake.json` is raised first and the catalog in one transaction after it: killed between the two, the next call goes
    on, and an older logitlake refuses to rebuild the lake. If another process migrates the same lake, one of the two
    does it and both return. Raises LakeBusyError if that does not settle.
    """
    repeat_if_overtaken(lambda: _migrate_once(connection, location), location)


def _migrate_once(connection: duckdb.DuckDBPyConnection, location: LakeLocation) -> None:
    if missing := missing_parts(connection):
        if missing.version:
            write_lake_note(connection, location)
            reach("lake-note-migrated")
        _migrate_tables(connection, missing)
        reach("tables-migrated")
    if not views_are_current(connection):
        make_views(connection)


def check_format(connection: duckdb.DuckDBPyConnection) -> int:
    """The format version of a lake. Raises FormatVersionError, and closes the connection, if it is newer than this."""
    row = connection.execute(f"SELECT format_version FROM {NAME}.store.guard").fetchone()
    version = row[0] if row else None
    if version is None or version > FORMAT_VERSION:
        connection.close()
        raise FormatVersionError(
            f"the lake has format version {version}, this logitlake reads up to {FORMAT_VERSION}: upgrade logitlake "
            "(pip install --upgrade logitlake); nothing was changed"
        )
    return int(version)


def table_columns(connection: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    """The columns of each table that the lake has."""
    rows = connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE (database_name, schema_name) = (?, 'store')",
        [NAME],
    ).fetchall()
    columns: dict[str, set[str]] = {}
    for table, column in rows:
        columns.setdefault(table, set()).add(column)
    return columns


def write_lake_note(connection: duckdb.DuckDBPyConnection, location: LakeLocation) -> None:
    """Write `lake.json` and its copy beside the data: what a rebuild needs to know before it reads any row."""
    settings = read_lake_settings(connection)
    noted = {name: settings[name] for name in _NOTED_SETTINGS if name in settings}
    for name in LAKE_NOTES:
        write_note(location, name, {"format_version": FORMAT_VERSION, **noted})


def notes_are_current(location: LakeLocation) -> bool:
    """Whether `lake.json` and its copy are there, can be read, and name the format version of a catalog of today."""
    # Every capture asks, and each question to a bucket takes tenths of a second: both notes are read at once.
    if not {location.data + name for name in LAKE_NOTES} <= set(list_paths(location, "lake*.json")):
        return False
    contents = read_all(location, "lake*.json")
    try:
        return all(
            json.loads(contents[location.data + name])["format_version"] == FORMAT_VERSION for name in LAKE_NOTES
        )
    except (ValueError, KeyError, TypeError):
        return False


def _migrate_tables(connection: duckdb.DuckDBPyConnection, missing: Missing) -> None:
    with catalog_transaction(connection):
        for name in missing.tables:
            for statement in create_statements(name, TABLES[name]):
                connection.execute(statement)
        for name, column, kind in missing.columns:
            connection.execute(f'ALTER TABLE store.{name} ADD COLUMN "{column}" {kind}')
        connection.execute("UPDATE store.guard SET format_version = ?", [FORMAT_VERSION])
        reach("columns-added")
