"""Damaged shards replaced by new ones with their intact documents; the other documents leave the lake.

The new shards are written first. A shard that DuckLake can't read is taken out of the catalog by itself: killed there,
the next repair takes its rows from the file, which stays on disk. Everything else is one transaction.
"""

import json

import pyarrow as pa

from logitlake.storage.connection.object_store import put_bytes
from logitlake.storage.errors import LakeError, LostRaceError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.recovery.damaged_files import copy_aside
from logitlake.storage.recovery.notes import noted_recipes, recipe_in_footer
from logitlake.storage.schema.sequences import complete_rows, with_hashes
from logitlake.storage.schema.tables import NAME
from logitlake.storage.shards.writing import encode_shard
from logitlake.storage.upkeep.compaction import REPAIRED_PREFIX
from logitlake.storage.verification.catalog_files import end_file
from logitlake.storage.verification.shard_damage import (
    KEY,
    TABLE,
    DamagedShard,
    ShardDamage,
    Windows,
    intact_copies,
    rows_within,
)

_ORDER = [(name, "ascending") for name in ("unit_id", "doc_id", "window_index")]


def replace_shards(lake: Lake, damage: ShardDamage, *, found_at: int) -> dict[str, str]:
    """Carry out what `find_shard_damage` found; returns the copy in `damaged/` of each file that is replaced.

    Raises LostRaceError if there was a commit after number `found_at`: find the damage again.
    """
    copies = {shard.file.path: path for shard in damage.shards if (path := copy_aside(lake.location, shard.file.path))}
    sources = {**damage.kept, **damage.copies}
    # `intact_copies` reads any file; what the catalog deleted in it is in no `Windows`.
    new = [made for path, windows in sources.items() if windows and (made := _new_shard(lake, path, windows))]
    reach("shards-salvaged")
    for shard in damage.shards:
        if not shard.has_footer:
            end_file(lake, shard.file)
            reach("file-ended")
    with lake.transaction() as transaction:
        transaction.refuse_later_commits(found_at)
        for shard in damage.shards:
            if shard.has_footer:
                _delete_rows(transaction, shard)
        for path, keys in new:
            _check_documents(transaction, keys)
            transaction.connection.execute(
                f"CALL ducklake_add_data_files('{NAME}', '{TABLE}', ?, schema => 'store', hive_partitioning => true)",
                [path],
            )
        _delete_documents(transaction, damage)
    return copies


def _new_shard(lake: Lake, path: str, windows: Windows) -> tuple[str, pa.Table] | None:
    """A shard of some intact rows of a file; returns its path and the keys of its documents."""
    rows = complete_rows(rows_within(intact_copies(lake, path), windows)).sort_by(_ORDER)
    if not rows.num_rows:
        return None
    recipe_id = rows["recipe_id"][0].as_py()
    units = sorted(set(rows["unit_id"].to_pylist()))
    stem = f"{REPAIRED_PREFIX}{units[0] if len(units) == 1 else f'{len(units)}-units'}"
    name = lake.location.new_shard_path(recipe_id, stem).removeprefix(lake.location.data)
    recipe = json.loads(_recipe(lake, recipe_id, path) or "{}")
    # Rows of format 1 get their hashes; the hashes of all others stay the same.
    made = put_bytes(lake.location, name, encode_shard(with_hashes(rows), recipe))
    return made, rows.select(list(KEY)).group_by(list(KEY)).aggregate([])


def _recipe(lake: Lake, recipe_id: str, path: str) -> str | None:
    try:
        row = lake.row("SELECT recipe FROM store.recipes WHERE recipe_id = ?", [recipe_id])
    except LakeError:
        row = {}
    if row:
        return str(row["recipe"])
    noted = noted_recipes(lake.location, {}).get(recipe_id)
    return noted or recipe_in_footer(lake.location, path, recipe_id)


def _delete_rows(transaction: Transaction, shard: DamagedShard) -> None:
    connection = transaction.connection
    deleted = connection.execute("DELETE FROM store.sequences WHERE filename = ?", [shard.file.path]).fetchone()
    if not deleted or not deleted[0]:
        raise LostRaceError(f"{shard.file.path}: it is in the lake no more")


def _check_documents(transaction: Transaction, keys: pa.Table) -> None:
    """Rows of a document that was forgotten meanwhile must not come back."""
    connection = transaction.connection
    connection.register("kept_documents", keys)
    count = connection.execute(
        f"SELECT count(*) FROM kept_documents JOIN store.documents USING ({', '.join(KEY)})"
    ).fetchone()
    connection.unregister("kept_documents")
    if not count or count[0] != keys.num_rows:
        raise LostRaceError("documents of a damaged shard were removed meanwhile")


def _delete_documents(transaction: Transaction, damage: ShardDamage) -> None:
    if not damage.lost:
        return
    lost = pa.table({name: pa.array([getattr(d, name) for d in damage.lost], pa.string()) for name in KEY})
    connection = transaction.connection
    connection.register("lost_documents", lost)
    connection.execute(
        f"DELETE FROM store.documents WHERE ({', '.join(KEY)}) IN (SELECT ({', '.join(KEY)}) FROM lost_documents)"
    )
    connection.unregister("lost_documents")
