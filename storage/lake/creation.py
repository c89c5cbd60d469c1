"""Making a lake: tables, options, views, the note `lake.json`. It may be killed at any point and called again."""

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from logitlake.storage.connection.catalog_changes import catalog_transaction, repeat_if_overtaken
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import list_paths
from logitlake.storage.errors import LakeError
from logitlake.storage.lake.durability import moment, sync_files_since
from logitlake.storage.lake.last_commit import NOTE
from logitlake.storage.lake.migration import migrate, notes_are_current, write_lake_note
from logitlake.storage.schema.row_hash import insert_rows
from logitlake.storage.schema.sequences import FORMAT_VERSION
from logitlake.storage.schema.tables import NAME, TABLES, create_statements

# Small deletes must appear in the list of files, and the rows of every table must lie in the data path. The guard is an
# exception: its row changes with every commit, and rebuild does not need it.
_INLINING = (
    f"CALL {NAME}.set_option('data_inlining_row_limit', 0)",
    f"CALL {NAME}.set_option('data_inlining_row_limit', 10, schema => 'store', table_name => 'guard')",
)
_OPTIONS = {"parquet_compression": "zstd", "parquet_compression_level": "19", "parquet_version": "2"}

# The note of a copy: it comes first, and the catalog last.
COPIED = "copied.json"
# What a lake with a commit has, and a creation that was stopped has not.
_OF_A_LAKE = {
    COPIED: "a copy",
    "store/sequences/**/*.parquet": "the shards",
    NOTE: "the note of the last commit",
    "recipes/*.json": "the recipes",
    "tombstones/*.json": "the tombstones",
    "students/*.json": "the students",
}


def make_or_migrate(
    connection: duckdb.DuckDBPyConnection, location: LakeLocation, settings: Mapping[str, str], *, over_data: bool
) -> None:
    """Make what is missing of a lake; `settings` are those of a new one. The caller holds the commit lock.

    Raises LakeError if the data path holds the shards or notes of a lake whose catalog is gone (a new lake would have
    another held-out split and would compute everything again), or Parquet files that no lake wrote.
    """

    def make_missing_tables() -> None:
        if not has_tables(connection):
            if not over_data:
                _check_data_path(location)
            _make_tables(connection, settings)
            if not over_data:
                # The notes of an earlier lake without a commit may name another held-out rule.
                write_lake_note(connection, location)

    began = moment()
    repeat_if_overtaken(make_missing_tables, location)
    migrate(connection, location)
    repeat_if_overtaken(lambda: _set_options(connection), location)
    sync_files_since(location, began)
    if not notes_are_current(location):
        write_lake_note(connection, location)


def has_tables(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the attached catalog holds a lake."""
    count = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE (database_name, schema_name, table_name) = (?, 'store', 'guard')",
        [NAME],
    ).fetchone()
    return bool(count and count[0])


def _check_data_path(location: LakeLocation) -> None:
    for pattern, kind in _OF_A_LAKE.items():
        if list_paths(location, pattern):
            raise LakeError(
                f"{location.data} holds {kind} of a lake, but its catalog is gone: `logitlake rebuild` makes it again; "
                "if the lake is still being copied, complete the copy; to begin anew, name another lake"
            )
    # Files under store/ without a catalog were left by a creation that was stopped.
    foreign = [path for path in list_paths(location, "**/*.parquet") if not path.startswith(f"{location.data}store/")]
    if foreign:
        raise LakeError(
            f"{location.data} holds Parquet files that no lake wrote, such as {foreign[0]}. `logitlake maintain` would "
            "remove them: choose a directory without other Parquet files (lake.data)"
        )


def _make_tables(connection: duckdb.DuckDBPyConnection, settings: Mapping[str, str]) -> None:
    """Tables and settings, in one transaction."""
    with catalog_transaction(connection):
        connection.execute("CREATE SCHEMA store")
        for name, table in TABLES.items():
            for statement in create_statements(name, table):
                connection.execute(statement)
        insert_rows(connection, "guard", pa.table({"commit_number": [0], "format_version": [FORMAT_VERSION]}))
        insert_rows(connection, "lake_settings", pa.table({"name": [*settings], "value": [*settings.values()]}))


def _set_options(connection: duckdb.DuckDBPyConnection) -> None:
    present = connection.execute(f"SELECT option_name, value, scope FROM {NAME}.options()").fetchall()
    if ("data_inlining_row_limit", "0", "GLOBAL") not in present:
        for call in _INLINING:
            connection.execute(call)
    for option, value in _OPTIONS.items():
        if (option, value, "GLOBAL") not in present:
            connection.execute(f"CALL {NAME}.set_option(?, ?)", [option, value])
