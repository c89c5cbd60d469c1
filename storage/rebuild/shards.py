"""The shards of a rebuild: each is registered as it is, or its good documents are written as a new shard.

A document with a row that does not match its hash is left out as a whole, and so is one that lacks rows: its other rows
would say less than was captured. Of a torn file, the row groups that can be read are taken. The file stays where it is.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.connection.object_store import connect, list_paths, put_bytes
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Transaction
from logitlake.storage.recovery.notes import recipe_in_footer
from logitlake.storage.recovery.salvage import POSITION, salvage
from logitlake.storage.recovery.table_files import data_files, intact_rows, unreadable_files
from logitlake.storage.schema.sequences import complete_rows, differing_rows, with_hashes
from logitlake.storage.shards.writing import encode_shard
from logitlake.storage.upkeep.compaction import MERGED_PREFIX, REPAIRED_PREFIX
from logitlake.storage.writing.commits import register_shard

_REWRITTEN_PREFIX = "rebuilt-"
_NAMED_DOCUMENTS = 3

OnShard = Callable[[int, int], None]
# Recipe and document.
Key = tuple[str, str]


@dataclass(slots=True)
class ShardsReport:
    """What was taken and left out, by file; `lost` are the documents that no file holds intact, and `split_units` the
    work units of which only some documents were taken, because the others came from another file."""

    n_taken: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    lost: set[Key] = field(default_factory=set)
    split_units: set[str] = field(default_factory=set)


def take_shards(
    transaction: Transaction, location: LakeLocation, forgotten: pa.Array, on_shard: OnShard
) -> ShardsReport:
    """Register every shard under the data path, each document once. Calls `on_shard` after each file."""
    report, damaged = ShardsReport(), dict[str, set[Key]]()
    paths = _in_order(data_files(location, "sequences"), _commit_times(transaction))
    for done, path in enumerate(paths, start=1):
        _take_shard(transaction, location, path, forgotten, report, damaged)
        reach("shard-taken")
        on_shard(done, len(paths))
    present = set(transaction.connection.execute("SELECT recipe_id, doc_id FROM store.documents").fetchall())
    names = set(forgotten.to_pylist())
    for path, keys in damaged.items():
        lost = {key for key in keys - present if key[1] not in names}
        report.lost |= lost
        if lost:
            examples = ", ".join(sorted(doc_id for _, doc_id in lost)[:_NAMED_DOCUMENTS])
            reason = f"{len(lost)} documents are damaged and were left out, such as {examples}"
            report.damaged[path] = "; ".join(filter(None, [report.damaged.get(path), reason]))
        elif path not in report.damaged:
            report.skipped[path] = "the damaged documents in it are intact in other files, or were forgotten"
    return report


def _in_order(paths: list[str], committed: dict[str, datetime]) -> list[str]:
    """Files that compaction or a repair wrote come first: they cover the ones that they were made from. Then the units
    by their commits, the last first: a process that was killed, or that lost a race, left its shard before the
    documents were committed in another unit. Files of units without a commit come last."""

    def place(path: str) -> tuple[bool, float, str]:
        name = Path(path).name
        moment = committed.get(name.removeprefix(_REWRITTEN_PREFIX).partition("-")[0])
        is_later = name.startswith((MERGED_PREFIX, REPAIRED_PREFIX, "ducklake-"))
        return not is_later, -moment.timestamp() if moment else 0.0, path

    return sorted(paths, key=place)


def _commit_times(transaction: Transaction) -> dict[str, datetime]:
    rows = transaction.connection.execute("SELECT unit_id, max(committed_at) FROM store.commits GROUP BY unit_id")
    return dict(rows.fetchall())


def _take_shard(
    transaction: Transaction,
    location: LakeLocation,
    path: str,
    forgotten: pa.Array,
    report: ShardsReport,
    damaged: dict[str, set[Key]],
) -> None:
    torn = False
    try:
        rows, compacted = _read(location, path)
        differing = differing_rows(rows)
    except (duckdb.Error, pa.ArrowException, ValueError) as error:
        raise_for_lack_of_memory(error)
        if not list_paths(location, path.removeprefix(location.data)):
            report.skipped[path] = "another process has removed the file"
            return
        found = salvage(location, "sequences", path)
        report.damaged[path] = str(error).splitlines()[0]
        if not found.rows.num_rows:
            return
        rows, compacted, torn = found.rows.drop_columns([POSITION]), False, True
        differing = differing_rows(rows)
    intact = rows
    if torn or pc.any(differing).as_py():
        intact, damaged[path] = _without_damage(location, rows, differing, torn=torn)
    fresh = _fresh(transaction, intact, forgotten)
    if not fresh.num_rows:
        if path not in damaged:
            report.skipped[path] = "every row was forgotten or is in another file"
        return
    report.split_units |= _split_units(intact.filter(_not_in(intact["doc_id"], forgotten)), fresh)
    _take_recipe(transaction, location, path, fresh)
    if torn or compacted or fresh.num_rows < rows.num_rows:
        path = _rewrite(transaction, location, path, fresh)
    register_shard(transaction, path, fresh)
    report.n_taken += 1


def _without_damage(
    location: LakeLocation, rows: pa.Table, differing: pa.Array, *, torn: bool
) -> tuple[pa.Table, set[Key]]:
    """The rows of the documents that are whole, and the other documents of the file's work units.

    A row whose document id was changed is missing from its document: the number of rows that was committed tells. Of a
    `torn` file only some row groups could be read, so a document is whole only if that number is known.
    """
    expected = _committed_counts(location, set(rows["unit_id"].to_pylist()))
    counts = _counts(rows.filter(pc.invert(differing)))
    wrong = set(_keys(rows.filter(differing)))
    incomplete = {key for key, numbers in expected.items() if counts.get(key, 0) not in numbers}
    bad = wrong | incomplete
    if torn:
        bad |= counts.keys() - expected.keys()
    keep = pa.array([key not in bad for key in _keys(rows)], pa.bool_())
    # A document id that was changed names no document that was lost.
    return rows.filter(keep), incomplete | (wrong & expected.keys() if expected else wrong)


def _counts(rows: pa.Table) -> dict[Key, int]:
    counted = rows.group_by(["recipe_id", "doc_id"]).aggregate([([], "count_all")])
    return {(row["recipe_id"], row["doc_id"]): row["count_all"] for row in counted.to_pylist()}


def _keys(rows: pa.Table) -> list[Key]:
    return list(zip(rows["recipe_id"].to_pylist(), rows["doc_id"].to_pylist(), strict=True))


def _committed_counts(location: LakeLocation, unit_ids: set[str]) -> dict[Key, set[int]]:
    """How many rows each document of these units had when it was committed, by the files of the table `documents`."""
    counts = dict[Key, set[int]]()
    paths = data_files(location, "documents")
    with connect(location) as connection:
        torn = unreadable_files(connection, "documents", paths)
        for rows in intact_rows(connection, "documents", [path for path in paths if path not in torn], {}):
            of_units = rows.filter(pc.is_in(rows["unit_id"], value_set=pa.array(sorted(unit_ids), pa.string())))
            for row in of_units.select(["recipe_id", "doc_id", "n_sequences"]).to_pylist():
                counts.setdefault((row["recipe_id"], row["doc_id"]), set()).add(row["n_sequences"])
    return counts


def _fresh(transaction: Transaction, rows: pa.Table, forgotten: pa.Array) -> pa.Table:
    """The rows whose document is not forgotten, and not in the catalog yet under the same recipe."""
    rows = rows.filter(_not_in(rows["doc_id"], forgotten))
    connection = transaction.connection
    connection.register("incoming_rows", rows)
    fresh = connection.execute(
        """
        SELECT i.* FROM incoming_rows AS i
        WHERE NOT EXISTS (FROM store.documents AS d WHERE (d.doc_id, d.recipe_id) = (i.doc_id, i.recipe_id))
        """
    ).to_arrow_table()
    connection.unregister("incoming_rows")
    return complete_rows(fresh).sort_by(
        [("recipe_id", "ascending"), ("doc_id", "ascending"), ("window_index", "ascending")]
    )


def _not_in(doc_ids: pa.ChunkedArray, forgotten: pa.Array) -> pa.ChunkedArray:
    return pc.invert(pc.is_in(doc_ids, value_set=forgotten))


def _split_units(rows: pa.Table, fresh: pa.Table) -> set[str]:
    """The units that have some rows in `fresh`, and fewer than in `rows`."""
    n_rows, n_fresh = (Counter(part["unit_id"].to_pylist()) for part in (rows, fresh))
    return {unit_id for unit_id, n in n_fresh.items() if n < n_rows[unit_id]}


def _read(location: LakeLocation, path: str) -> tuple[pa.Table, bool]:
    """The rows of one file, and whether DuckLake wrote it. On a connection of its own: an error here must not end the
    transaction."""
    with connect(location) as connection:
        rows = complete_rows(connection.execute("FROM read_parquet(?)", [path]).to_arrow_table())
        columns = {row[0] for row in connection.execute("SELECT name FROM parquet_schema(?)", [path]).fetchall()}
    return rows, any(column.startswith("_ducklake_internal") for column in columns)


def _take_recipe(transaction: Transaction, location: LakeLocation, path: str, rows: pa.Table) -> None:
    """The recipe in the footer of a shard, if its row and its note were lost."""
    recipe_id = rows["recipe_id"][0].as_py()
    if _recipe(transaction, recipe_id) is None and (recipe := recipe_in_footer(location, path, recipe_id)):
        row = {"recipe_id": recipe_id, "recipe": recipe, "created_at": datetime.now(UTC)}
        transaction.insert("recipes", pa.Table.from_pylist([row]))


def _recipe(transaction: Transaction, recipe_id: str) -> str | None:
    row = transaction.connection.execute("SELECT recipe FROM store.recipes WHERE recipe_id = ?", [recipe_id]).fetchone()
    return row[0] if row else None


def _rewrite(transaction: Transaction, location: LakeLocation, path: str, rows: pa.Table) -> str:
    """A shard of some rows of a file, under a new name; nothing names the old file then, and upkeep sweeps it."""
    recipe_id = rows["recipe_id"][0].as_py()
    recipe = json.loads(_recipe(transaction, recipe_id) or "{}")
    stem = f"{_REWRITTEN_PREFIX}{Path(path).stem.removeprefix(_REWRITTEN_PREFIX)}"
    name = location.new_shard_path(recipe_id, stem).removeprefix(location.data)
    return put_bytes(location, name, encode_shard(with_hashes(rows), recipe))
