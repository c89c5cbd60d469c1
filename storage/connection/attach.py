"""A connection to DuckDB with the lake attached, and what its errors mean for a person."""

import re

import duckdb

from logitlake.storage.connection.catalog_changes import repeat_if_overtaken
from logitlake.storage.connection.catalog_file import check_is_whole
from logitlake.storage.connection.disk_errors import disk_problem, lake_folders
from logitlake.storage.connection.extensions import load_extension
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.connection.object_store import configure_object_store
from logitlake.storage.connection.open_connections import stoppable
from logitlake.storage.errors import LakeError, LakeMissingError
from logitlake.storage.redaction import without_parts_of
from logitlake.storage.schema.tables import NAME

_CATALOG_RETRIES = 100
# DuckDB's message may quote bytes of a damaged catalog that are not UTF-8.
CATALOG_ERRORS = (duckdb.Error, UnicodeDecodeError)
# What DuckLake says of a catalog database that holds no DuckLake, such as an empty PostgreSQL database.
_NO_DUCKLAKE = "creating a new DuckLake is explicitly disabled"
# What PostgreSQL says when two processes make a DuckLake in the same database.
_BEING_MADE = re.compile(r"Failed to initialize DuckLake.*(already exists|duplicate key)", re.DOTALL)


def attach_or_make(location: LakeLocation) -> duckdb.DuckDBPyConnection:
    """Attach the DuckLake, and make it first if there is none; on a server another process may make it at once."""
    connections: list[duckdb.DuckDBPyConnection] = []
    repeat_if_overtaken(lambda: connections.append(attach(location, read_only=False)), location)
    return connections[0]


def missing_lake(location: LakeLocation) -> LakeMissingError:
    return LakeMissingError(
        f"the catalog {location.catalog} holds no lake: `logitlake capture` makes one; "
        "`logitlake rebuild` makes the catalog again if the data path still holds shards"
    )


def unreadable_catalog(location: LakeLocation, error: Exception) -> LakeError:
    reason = str(error).splitlines()[0]
    return LakeError(
        f"the catalog {location.catalog} can't be read ({reason}): if it is damaged, restore it from "
        "a backup, or move it away and run `logitlake rebuild`, which makes it again from the data path"
    )


def attach(location: LakeLocation, *, read_only: bool, must_exist: bool = False) -> duckdb.DuckDBPyConnection:
    """A connection to the lake. `must_exist`: raises LakeMissingError where there is no DuckLake, and makes none."""
    if location.catalog_file is not None and location.catalog_file.exists():
        check_is_whole(location.catalog_file)
    connection = stoppable(duckdb.connect())
    set_time_zone(connection)
    if location.data_directory is not None:
        # The operating system caches local files already; the cache of DuckDB would grow with the number of shards.
        connection.execute("SET enable_external_file_cache = false")
    load_extension(connection, "ducklake")
    load_extension(connection, "sqlite_scanner" if location.catalog_file else "postgres_scanner")
    configure_object_store(connection, location)
    connection.execute(f"SET ducklake_max_retry_count = {_CATALOG_RETRIES}")
    options = [f"DATA_PATH {_quoted(location.data)}", "OVERRIDE_DATA_PATH true"]
    if must_exist:
        options.append("CREATE_IF_NOT_EXISTS false")
    if read_only:
        # The journal mode is not set: a copy made by VACUUM INTO has another mode, and a reader can't change it.
        options.append("READ_ONLY")
    elif location.catalog_file:
        options.append("META_JOURNAL_MODE 'WAL'")
    try:
        connection.execute(f"ATTACH {_quoted(f'ducklake:{location.catalog}')} AS {NAME} ({', '.join(options)})")
        connection.execute(f"USE {NAME}")
    except CATALOG_ERRORS as error:
        connection.close()
        raise_for_lack_of_memory(error)
        if _NO_DUCKLAKE in str(error):
            raise missing_lake(location) from None
        if _BEING_MADE.search(str(error)):
            raise
        reason = without_parts_of(location.catalog, str(error))
        if problem := disk_problem(error, lake_folders(location)):
            raise LakeError(f"the catalog {location.catalog} can't be opened: {problem}") from None
        raise LakeError(
            f"the catalog {location.catalog} can't be opened: {reason}. Check the path or connection, that it is a "
            "DuckLake catalog, and that its folder is writable (SQLite's WAL needs that even for reading)"
        ) from None
    return connection


def set_time_zone(connection: duckdb.DuckDBPyConnection) -> None:
    # DuckLake compares some times as text: the result must not depend on the machine's time zone.
    connection.execute("SET TimeZone = 'UTC'")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
