"""The Parquet files that the catalog names for a table, and the removal of one of them from the table.

DuckLake removes rows by reading the file that holds them, which a damaged file may not allow. A file whose footer can
be read leaves in the caller's own transaction: DuckLake needs nothing but the footer to delete every row. For any other
file the catalog is told directly that the file ended, as one snapshot of its own.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import duckdb

from logitlake.storage.connection.catalog_changes import catalog_transaction
from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.connection.object_store import connect
from logitlake.storage.errors import LakeError, LostRaceError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.schema.tables import NAME

_METADATA = f"__ducklake_metadata_{NAME}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogFile:
    """A data file of the newest snapshot, with the sizes that the catalog expects.

    `deletes` is its list of deleted rows, if there is one. `first_unit` and `last_unit` are the range of its units, for
    a shard whose statistics the catalog holds.
    """

    table: str
    path: str
    n_rows: int
    n_bytes: int
    footer_bytes: int
    deletes: str | None
    first_unit: str | None
    last_unit: str | None

    def may_hold(self, unit_ids: Sequence[str]) -> bool:
        """Whether the statistics of the catalog allow that a row of one of these units is in the file."""
        first, last = self.first_unit, self.last_unit
        return first is None or last is None or any(first <= unit_id <= last for unit_id in unit_ids)


def listed_files(lake: Lake, table: str) -> list[dict[str, Any]]:
    """What DuckLake lists of the data files of a table. Raises LakeError for a file without a name."""
    query = f"FROM ducklake_list_files('{NAME}', '{table}', schema => 'store')"
    files: list[dict[str, Any]] = lake.sql(query).to_pylist()
    if any(file["data_file"] is None for file in files):
        raise LakeError(
            f"the catalog is damaged: a file of the table {table} has no name. Restore it from a backup, or move it "
            "away and run `logitlake rebuild`, which makes it again from the data path"
        )
    return files


def current_files(lake: Lake, table: str) -> list[CatalogFile]:
    """The data files of a table, by path."""
    files = listed_files(lake, table)
    facts = {row["name"]: row for row in lake.sql(_facts(table)).to_pylist()}
    return sorted((_file(table, file, facts) for file in files), key=lambda file: file.path)


def has_expected_footer(lake: Lake, file: CatalogFile) -> bool:
    """Whether the footer can be read and both sizes are those that the catalog expects, so that DuckLake finds it."""
    try:
        with connect(lake.location) as connection:
            sizes = connection.execute(
                "SELECT file_size_bytes, footer_size FROM parquet_file_metadata(?)", [file.path]
            ).fetchone()
    except duckdb.Error as error:
        raise_for_lack_of_memory(error)
        return False
    return sizes == (file.n_bytes, file.footer_bytes)


def without_footer(lake: Lake, files: Sequence[CatalogFile]) -> list[CatalogFile]:
    """The files that DuckLake can't read because they are gone, torn, or not of the expected size: one statement reads
    all footers, and each is read alone only if that fails."""
    if not files:
        return []
    with suppress(duckdb.Error), connect(lake.location) as connection:
        rows = connection.execute(
            "SELECT file_name, file_size_bytes, footer_size FROM parquet_file_metadata(?)", [[f.path for f in files]]
        ).fetchall()
        sizes = {path: (n_bytes, footer) for path, n_bytes, footer in rows}
        return [file for file in files if sizes.get(file.path) != (file.n_bytes, file.footer_bytes)]
    return [file for file in files if not has_expected_footer(lake, file)]


def end_file(lake: Lake, file: CatalogFile) -> None:
    """Take a file out of its table, from a snapshot of its own on; the file stays on disk until upkeep sweeps it.

    Raises LostRaceError if another commit came first, or took the file out of the table.
    """
    name = PurePosixPath(file.path).name
    connection = lake.connection
    try:
        with lake.exclusive(), catalog_transaction(connection):
            row = connection.execute(
                f"""
                SELECT data_file_id, table_id, (SELECT max(snapshot_id) + 1 FROM {_METADATA}.ducklake_snapshot)
                FROM {_METADATA}.ducklake_data_file WHERE end_snapshot IS NULL AND parse_filename(path) = ?
                """,
                [name],
            ).fetchone()
            if row is None:
                raise LostRaceError(f"{file.path}: the catalog names it no more: look again and retry")
            file_id, table_id, snapshot = row
            connection.execute(
                f"""
                INSERT INTO {_METADATA}.ducklake_snapshot
                    (snapshot_id, snapshot_time, schema_version, next_catalog_id, next_file_id)
                SELECT snapshot_id + 1, now(), schema_version, next_catalog_id, next_file_id
                FROM {_METADATA}.ducklake_snapshot WHERE snapshot_id = ?
                """,
                [snapshot - 1],
            )
            connection.execute(
                f"""
                INSERT INTO {_METADATA}.ducklake_snapshot_changes (snapshot_id, changes_made)
                VALUES ({snapshot}, 'deleted_from_table:{table_id}')
                """
            )
            for files in ("ducklake_data_file", "ducklake_delete_file"):
                connection.execute(
                    f"UPDATE {_METADATA}.{files} SET end_snapshot = {snapshot} "
                    f"WHERE end_snapshot IS NULL AND data_file_id = {file_id}"
                )
    except duckdb.Error as error:
        text = str(error).lower()
        if any(sign in text for sign in ("conflict", "locked", "duplicate key", "unique")):
            raise LostRaceError(f"{file.path}: another commit came first ({error}): look again and retry") from error
        raise LakeError(f"{file.path}: could not be taken out of the catalog ({error})") from error


def _facts(table: str) -> str:
    """Rows and range of units of every current file of the table, by its name, which is random and so unique."""
    return f"""
        SELECT
            parse_filename(f.path) AS name, f.record_count AS n_rows,
            s.min_value AS first_unit, s.max_value AS last_unit
        FROM {_METADATA}.ducklake_data_file AS f
        JOIN {_METADATA}.ducklake_table AS t ON t.table_id = f.table_id AND t.table_name = '{table}'
        LEFT JOIN (
            SELECT DISTINCT table_id, column_id FROM {_METADATA}.ducklake_column
            WHERE column_name = 'unit_id' AND parent_column IS NULL AND end_snapshot IS NULL
        ) AS c ON c.table_id = f.table_id
        LEFT JOIN {_METADATA}.ducklake_file_column_stats AS s
            ON s.data_file_id = f.data_file_id AND s.column_id = c.column_id
        WHERE f.end_snapshot IS NULL
    """


def _file(table: str, file: dict[str, Any], facts: dict[str, dict[str, Any]]) -> CatalogFile:
    fact = facts.get(PurePosixPath(file["data_file"]).name, {})
    return CatalogFile(
        table=table,
        path=file["data_file"],
        n_rows=int(fact.get("n_rows") or 0),
        n_bytes=file["data_file_size_bytes"],
        footer_bytes=file["data_file_footer_size"],
        deletes=file["delete_file"],
        first_unit=fact.get("first_unit"),
        last_unit=fact.get("last_unit"),
    )
