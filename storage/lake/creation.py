"""Making a lake: tables, options, views, the note beside the data. May be killed at any point and called again."""

import re
from datetime import UTC, datetime
from functools import cache

import duckdb

from logitlake.storage.errors import FormatVersionError, LakeError
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.lake.object_store import list_paths, write_note
from logitlake.storage.lake.schema import FORMAT_VERSION
from logitlake.storage.lake.views import comment_statements, statements, view_statements, views_version

NAME = "lake"

# Small deletes must show up in the list of files, and every table must be there in the data path; the guard row alone
# changes with every commit and is nothing that a rebuild needs.
_INLINING = (
    f"CALL {NAME}.set_option('data_inlining_row_limit', 0)",
    f"CALL {NAME}.set_option('data_inlining_row_limit', 10, schema => 'store', table_name => 'guard')",
)
_OPTIONS = {"parquet_compression": "zstd", "parquet_compression_level": "19", "parquet_version": "2"}


def make_or_mend(
    connection: duckdb.DuckDBPyConnection, location: LakeLocation, salt: str, share: float, *, over_data: bool
) -> None:
    """Make what is missing of a lake; the caller holds the commit lock.

    Raises LakeError if shards lie under the data path and no catalog names them: a lake made over them would have
    another held-out split, and would pay for everything again; and if other people's Parquet files lie there.
    """
    if not has_tables(connection):
        if not over_data and list_paths(location, "store/sequences/**/*.parquet"):
            raise LakeError(
                f"{location.data} holds shards, but its catalog is gone: `logitlake rebuild` makes it again from them; "
                "to begin anew, name another lake"
            )
        # Files of ours without a catalog are what a making that was stopped left behind.
        own = f"{location.data}store/"
        foreign = [path for path in list_paths(location, "**/*.parquet") if not path.startswith(own)]
        if foreign and not over_data:
            raise LakeError(
                f"{location.data} holds Parquet files already, such as {foreign[0]}: upkeep removes what no lake "
                "names, so a lake needs a place of its own (lake.data)"
            )
        _make_tables(connection, salt, share)
    mend(connection)
    _set_options(connection)
    if not list_paths(location, "lake.json"):
        settings = dict(connection.execute("SELECT name, value FROM store.lake_settings").fetchall())
        kept = {name: settings[name] for name in ("held_out_salt", "held_out_share", "created_at")}
        write_note(location, "lake.json", {"format_version": FORMAT_VERSION, **kept})


def mend(connection: duckdb.DuckDBPyConnection) -> None:
    """Give a lake that an older logitlake made the tables and views of this one; the caller holds the commit lock."""
    check_format(connection)
    for table in _missing_tables(connection):
        connection.execute(table_statements()[table])
    if _needs_views(connection):
        _make_views(connection)


def needs_mending(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether `mend` would change anything. Raises FormatVersionError for a lake of a newer logitlake."""
    check_format(connection)
    return bool(_missing_tables(connection)) or _needs_views(connection)


def has_tables(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the attached catalog holds a lake."""
    found = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE (database_name, schema_name, table_name) = (?, 'store', 'guard')",
        [NAME],
    ).fetchone()
    return bool(found and found[0])


def check_format(connection: duckdb.DuckDBPyConnection) -> None:
    """Raises FormatVersionError, and closes the connection, if a newer logitlake wrote the lake."""
    found = connection.execute("SELECT format_version FROM store.guard").fetchone()
    version = found[0] if found else None
    if version is None or version > FORMAT_VERSION:
        connection.close()
        raise FormatVersionError(
            f"the lake has format version {version}, this logitlake reads up to {FORMAT_VERSION}: upgrade logitlake "
            "(pip install --upgrade logitlake); nothing was changed"
        )


def _make_tables(connection: duckdb.DuckDBPyConnection, salt: str, share: float) -> None:
    """Tables and settings, in one transaction."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    settings = [("held_out_salt", salt), ("held_out_share", repr(share)), ("created_at", now)]
    connection.execute("BEGIN")
    for statement in statements("tables.sql"):
        connection.execute(statement)
    connection.execute("INSERT INTO store.guard VALUES (0, ?)", [FORMAT_VERSION])
    connection.executemany("INSERT INTO store.lake_settings VALUES (?, ?)", settings)
    connection.execute("COMMIT")


def _missing_tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    found = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = ? AND schema_name = 'store'", [NAME]
    ).fetchall()
    return sorted(set(table_statements()) - {row[0] for row in found})


@cache
def table_statements() -> dict[str, str]:
    """CREATE TABLE by name."""
    found = {re.search(r"CREATE TABLE store\.(\w+)", text): text for text in statements("tables.sql")}
    return {match[1]: text for match, text in found.items() if match}


def _set_options(connection: duckdb.DuckDBPyConnection) -> None:
    found = connection.execute(f"SELECT option_name, value, scope FROM {NAME}.options()").fetchall()
    if ("data_inlining_row_limit", "0", "GLOBAL") not in found:
        for call in _INLINING:
            connection.execute(call)
    for option, value in _OPTIONS.items():
        if (option, value, "GLOBAL") not in found:
            connection.execute(f"CALL {NAME}.set_option(?, ?)", [option, value])


def _needs_views(connection: duckdb.DuckDBPyConnection) -> bool:
    found = connection.execute("SELECT value FROM store.lake_settings WHERE name = 'views'").fetchall()
    return not found or found[-1][0] != views_version()


def _make_views(connection: duckdb.DuckDBPyConnection) -> None:
    check_format(connection)
    values = dict(connection.execute("SELECT name, value FROM store.lake_settings").fetchall())
    connection.execute("BEGIN")
    for statement in view_statements(values):
        connection.execute(statement)
    for statement in comment_statements(connection):
        connection.execute(statement)
    connection.execute("DELETE FROM store.lake_settings WHERE name = 'views'")
    connection.execute("INSERT INTO store.lake_settings VALUES ('views', ?)", [views_version()])
    connection.execute("COMMIT")
