"""Large lakes out of real rows: the captured sequences again and again, as other documents or under other recipes.

Every repetition has its own document ids, unit ids and checksums and is written by the real shard writer, so bytes,
pages and statistics are those of a capture; only the teacher's time is saved.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.captured import CACHE, captured_lake
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import digest
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.schema.sequences import SEQUENCES, with_checksums
from logitlake.storage.schema.tables import NAME
from logitlake.storage.shards.writing import write_shard
from logitlake.storage.upkeep.compaction import merge_small_tables
from logitlake.storage.writing.commits import documents_of, unit_id_of
from logitlake.storage.writing.recipes import find_recipe, register_recipe

Unit = tuple[Mapping[str, Any], pa.Table]

_UNITS_PER_TRANSACTION = 100
_LISTS = ["input_ids", "target_ids", "head_codes", "entropy_codes", "nll_codes"]


def captured_rows() -> tuple[dict[str, Any], pa.Table]:
    """The recipe and all rows (SEQUENCES) of the shared captured lake."""
    with Lake.open(captured_lake()) as lake:
        recipe_id, recipe = find_recipe(lake)
        names = ", ".join(f'"{name}"' for name in SEQUENCES.names)
        rows = lake.sql(
            f"SELECT {names} FROM store.sequences WHERE recipe_id = ? ORDER BY unit_id, doc_id, window_index",
            [recipe_id],
        )
    return recipe, rows.cast(SEQUENCES).combine_chunks()


def repeated_units(recipe: Mapping[str, Any], rows: pa.Table, *, count: int, tokens: int) -> Iterator[Unit]:
    """`count` work units of about `tokens` tokens each: consecutive captured rows, from the first again after the last.

    What is captured must be more than one unit: a unit never holds a row twice.
    """
    lengths = rows["n_tokens"].to_numpy().astype(np.int64)
    assert tokens < lengths.sum(), "a unit would hold a captured row twice"
    ends = np.cumsum(np.concatenate([lengths, lengths]))
    begin = 0
    for number in range(count):
        before = int(ends[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(ends, before + tokens)), begin + 1)
        taken = np.arange(begin, end) % len(lengths)
        yield recipe, renamed(rows.take(pa.array(taken)), recipe, number)
        begin = end % len(lengths)


def renamed(rows: pa.Table, recipe: Mapping[str, Any], number: int) -> pa.Table:
    """Rows as a work unit of their own: document ids that no other `number` has, in the order that shards have."""
    doc_ids = [digest(b"repeated", str(number).encode(), doc_id.encode()) for doc_id in rows["doc_id"].to_pylist()]
    recipe_id = id_of_recipe(recipe)
    same = {"recipe_id": recipe_id, "unit_id": unit_id_of(recipe_id, doc_ids)}
    columns = {"doc_id": doc_ids, **{name: [value] * rows.num_rows for name, value in same.items()}}
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), SEQUENCES.field(name), pa.array(values, pa.string()))
    return with_checksums(rows.sort_by([("doc_id", "ascending"), ("window_index", "ascending")]))


def lake_of(name: str, units: Iterable[Unit]) -> LakeLocation:
    """The lake `name` in the cache, made of `units` the first time. Small tables are merged as upkeep leaves them."""
    directory = CACHE / name
    if not directory.exists():
        print(f"benchmarks: making {name}, once", file=sys.stderr, flush=True)
        staged = CACHE / f"{name}.tmp"
        shutil.rmtree(staged, ignore_errors=True)
        _fill(staged, units)
        staged.rename(directory)
    return LakeLocation.resolve(directory)


def _fill(directory: Path, units: Iterable[Unit]) -> None:
    location = LakeLocation.resolve(directory)
    stream = iter(units)
    with Lake.create(location, held_out_salt="benchmarks", held_out_share=0.05) as lake:
        while some := list(islice(stream, _UNITS_PER_TRANSACTION)):
            for recipe in {id_of_recipe(recipe): recipe for recipe, _ in some}.values():
                register_recipe(lake, recipe)
            with ThreadPoolExecutor(os.cpu_count()) as writers:
                written = writers.map(lambda unit: write_shard(location, unit[1], unit[0]), some)
                paths, sizes = zip(*written, strict=True)
            rows = pa.concat_tables([rows.drop_columns(_LISTS) for _, rows in some])
            with lake.transaction() as transaction:
                _register(transaction, paths, sum(sizes) / sum(rows["n_tokens"].to_pylist()), rows)
        merge_small_tables(lake)


def _register(transaction: Transaction, paths: Sequence[str], bytes_per_token: float, rows: pa.Table) -> None:
    """Make many units known at once, as their own commits would have."""
    connection = transaction.connection
    connection.execute(
        f"CALL ducklake_add_data_files('{NAME}', 'sequences', ?, schema => 'store', hive_partitioning => true)",
        [list(paths)],
    )
    connection.register("incoming_units", rows)
    commits = connection.execute(
        "SELECT ?::BIGINT AS commit_number, unit_id, recipe_id, 'benchmark' AS run_id, now() AS committed_at, "
        "count(DISTINCT doc_id) AS n_documents, count(*) AS n_sequences, sum(n_tokens)::BIGINT AS n_tokens, "
        "sum(n_targets)::BIGINT AS n_targets, (sum(n_tokens) * ?)::BIGINT AS n_bytes, 1::DOUBLE AS seconds "
        "FROM incoming_units GROUP BY unit_id, recipe_id",
        [transaction.number, bytes_per_token],
    ).to_arrow_table()
    connection.unregister("incoming_units")
    transaction.insert("documents", documents_of(rows))
    transaction.insert("document_sources", rows.group_by(["doc_id", "corpus", "source"]).aggregate([]))
    transaction.insert("commits", commits)
