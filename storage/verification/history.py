"""Does the catalog know everything that was committed under its data path? Asked before files are removed.

A file that the catalog has never named was left by a process that died, or was committed in another catalog's history
(the catalog is an older copy, or a rebuild of it was stopped). A process dies in one transaction, so it leaves at most
one record of its run that the catalog does not know; more than one, or a record of a run that the catalog has never
heard of, was committed elsewhere, and its files must stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.connection.object_store import connect, list_paths, read_all
from logitlake.storage.lake.lake import Lake
from logitlake.storage.recovery.table_files import DELETES_SUFFIX, intact_rows, unreadable_files
from logitlake.storage.schema.sequences import complete_rows, differing_rows
from logitlake.storage.schema.tables import NAME, TABLES
from logitlake.storage.writing.runs import RETIRE_KIND

# Records of runs, with the columns that tell one from another. An event alone is nothing to lose.
_RECORDS = {
    "commits": ("unit_id",),
    "students": ("student_id", "created_at"),
    "promotions": ("commit_number", "alias", "student_id"),
    "run_events": ("run_id", "event", "happened_at"),
}
_NEVER = datetime.min.replace(tzinfo=UTC)
_VALUABLE = frozenset(_RECORDS) - {"run_events"}
# The last bytes of every complete Parquet file.
_PARQUET_END = b"PAR1"


@dataclass(slots=True)
class UnknownFiles:
    """What files that the catalog does not name hold: `missing` describes what was committed and is not in the catalog,
    `damaged` maps a file whose rows are not all intact, and are not all elsewhere, to what is wrong with it. A shard
    whose commit may have been in a damaged file counts as damaged."""

    missing: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)


def unknown_files(lake: Lake) -> list[str]:
    """The Parquet files of the lake's tables that the catalog does not name, in no snapshot and no plan of removal."""
    metadata = f"__ducklake_metadata_{NAME}"
    named = lake.sql(
        " UNION ALL ".join(
            f"SELECT path FROM {metadata}.{table}"
            for table in ("ducklake_data_file", "ducklake_delete_file", "ducklake_files_scheduled_for_deletion")
        )
    )["path"].to_pylist()
    # Names are random, so a name says enough.
    names = {PurePosixPath(path).name for path in named}
    return [path for path in list_paths(lake.location, "store/**/*.parquet") if PurePosixPath(path).name not in names]


def examine(lake: Lake, paths: Sequence[str]) -> UnknownFiles:
    """Look into files that the catalog does not name."""
    found = UnknownFiles()
    by_table: dict[str, list[str]] = {}
    for path in paths:
        table = path.removeprefix(f"{lake.location.data}store/").partition("/")[0]
        if table in TABLES and not path.endswith(DELETES_SUFFIX):
            by_table.setdefault(table, []).append(path)
    with connect(lake.location) as connection:
        units = {path: _unknown_units(lake, connection, path, found) for path in by_table.pop("sequences", [])}
        records = {table: _unknown_records(lake, connection, table, files, found) for table, files in by_table.items()}
    # A transaction that was rolled back meanwhile has removed its files.
    present = set(list_paths(lake.location, "store/**/*.parquet")) if found.damaged else set()
    found.damaged = {path: reason for path, reason in found.damaged.items() if path in present}
    unit_ids = set().union(*units.values())
    found.missing = _committed_elsewhere(lake, records, unit_ids)
    damaged_commits = [path for path in found.damaged if path.startswith(f"{lake.location.data}store/commits/")]
    if unit_ids and damaged_commits and not found.missing:
        if any(_is_complete(lake, path) for path in damaged_commits):
            found.missing = [f"unit {unit_id}" for unit_id in sorted(unit_ids)]
        else:
            shards = [path for path, of_file in units.items() if of_file]
            found.damaged |= dict.fromkeys(
                shards, f"its commit may have been in {damaged_commits[0]}, which is damaged"
            )
    return found


def _is_complete(lake: Lake, path: str) -> bool:
    """Whether a Parquet file was written to its end; one whose bytes can't be read counts as complete, one that is gone
    does not."""
    name = path.removeprefix(lake.location.data)
    try:
        contents = read_all(lake.location, name)
    except duckdb.Error as error:
        raise_for_lack_of_memory(error)
        return bool(list_paths(lake.location, name))
    return any(content.endswith(_PARQUET_END) for content in contents.values())


def refusal(lake: Lake, missing: Sequence[str]) -> str:
    """What a person reads when the catalog knows less than its data path."""
    n_records = f"{len(missing)} record{'s' * (len(missing) > 1)}"
    return (
        f"{lake.location.data} holds {n_records} of committed work that the catalog "
        f"{lake.location.catalog} does not know, such as {missing[0]}: the catalog is an older copy, "
        "or its rebuild was stopped. Nothing was removed. Put the newer catalog back, or move this one away and run "
        "`logitlake rebuild`, which makes it again from all files"
    )


def _unknown_units(lake: Lake, connection: duckdb.DuckDBPyConnection, path: str, found: UnknownFiles) -> set[str]:
    """The units with documents of this shard that the catalog does not hold and that were not forgotten.

    A damaged shard with such documents is noted and has no units: upkeep keeps a copy of it.
    """
    try:
        rows = complete_rows(connection.execute("FROM read_parquet(?)", [path]).to_arrow_table())
        differing = differing_rows(rows)
    except (duckdb.Error, pa.ArrowException, ValueError) as error:
        raise_for_lack_of_memory(error)
        found.damaged[path] = str(error).splitlines()[0]
        return set()
    unknown = _absent_documents(lake, rows)
    if not unknown.num_rows:
        return set()
    if pc.any(differing).as_py():
        found.damaged[path] = f"{pc.sum(differing).as_py()} of {rows.num_rows} rows do not match their hash"
        return set()
    return set(unknown["unit_id"].to_pylist())


def _absent_documents(lake: Lake, rows: pa.Table) -> pa.Table:
    """The units of the documents that are neither in the catalog nor forgotten."""
    keys = rows.select(["recipe_id", "doc_id", "unit_id"]).group_by(["recipe_id", "doc_id", "unit_id"]).aggregate([])
    lake.connection.register("unknown_rows", keys)
    absent = lake.sql(
        f"""
        SELECT DISTINCT unit_id FROM unknown_rows AS u
        WHERE NOT EXISTS (FROM {NAME}.store.documents AS d WHERE (d.doc_id, d.recipe_id) = (u.doc_id, u.recipe_id))
        AND NOT EXISTS (FROM {NAME}.store.tombstones AS t WHERE t.doc_id = u.doc_id)
        """
    )
    lake.connection.unregister("unknown_rows")
    return absent


def _unknown_records(
    lake: Lake, connection: duckdb.DuckDBPyConnection, table: str, paths: Sequence[str], found: UnknownFiles
) -> pa.Table | None:
    """The intact rows of these files that the catalog does not hold; None for a table without records of runs."""
    torn = unreadable_files(connection, table, paths)
    found.damaged |= torn
    readable = [path for path in paths if path not in torn]
    if not readable:
        return None
    wrong: dict[str, str] = {}
    parts = list(intact_rows(connection, table, readable, wrong))
    for where, reason in wrong.items():
        path, _, key = where.partition(", ")
        found.damaged.setdefault(path, f"{key}: {reason}")
    if table not in _RECORDS or not parts:
        return None
    lake.connection.register("unknown_rows", pa.concat_tables(parts))
    same = " AND ".join(f"k.{column} = u.{column}" for column in _RECORDS[table])
    records = lake.sql(
        f"SELECT * FROM unknown_rows AS u WHERE NOT EXISTS (FROM {NAME}.store.{table} AS k WHERE {same})"
    )
    lake.connection.unregister("unknown_rows")
    return records


def _committed_elsewhere(lake: Lake, records: dict[str, pa.Table | None], unit_ids: set[str]) -> list[str]:
    """Descriptions of the valuable records of runs whose other records show that they went on."""
    records_of_run: dict[str, list[tuple[str, str]]] = {}
    retired = _retired(lake)
    for table, rows in records.items():
        for row in rows.to_pylist() if rows is not None else []:
            if table == "commits" and (
                row["unit_id"] not in unit_ids or row["committed_at"] <= retired.get(row["recipe_id"], _NEVER)
            ):
                continue
            key = ", ".join(f"{column} {row[column]}" for column in TABLES[table].key)
            records_of_run.setdefault(row["run_id"], []).append((table, f"{table} {key} of run {row['run_id']}"))
    known = lake.sql(f"SELECT run_id FROM {NAME}.store.run_events UNION SELECT run_id FROM {NAME}.store.commits")
    known_runs = set(known["run_id"].to_pylist())
    return [
        description
        for run_id, of_run in sorted(records_of_run.items())
        for table, description in of_run
        if table in _VALUABLE and (len(of_run) > 1 or (table == "commits" and run_id not in known_runs))
    ]


def _retired(lake: Lake) -> dict[str, datetime]:
    """When each recipe was last retired."""
    rows = lake.sql(
        f"""
        SELECT recipe_id, max(happened_at) AS retired_at FROM {NAME}.store.run_events
        WHERE kind = ? AND recipe_id IS NOT NULL GROUP BY recipe_id
        """,
        [RETIRE_KIND],
    )
    return {row["recipe_id"]: row["retired_at"] for row in rows.to_pylist()}
