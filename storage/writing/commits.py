"""The commit of one work unit: its shards, its documents and its run's progress, in one transaction.

Two captures may commit the same documents at the same time. The second one sees inside its transaction which documents
are in the lake by now, keeps only the others and tries again: no document is stored twice. After a commit whose answer
was lost, the retry sees that it landed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.errors import LostRaceError
from logitlake.storage.identity import digest
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.schema.sequences import CAPTURED, SEQUENCES, complete_rows, with_checksums
from logitlake.storage.schema.tables import NAME
from logitlake.storage.shards.writing import write_shard
from logitlake.storage.writing.known_documents import held_now
from logitlake.storage.writing.sightings import insert_sightings

SOURCES = pa.schema([("doc_id", pa.string()), ("corpus", pa.string()), ("source", pa.string()), ("line", pa.int64())])
REJECTS = pa.schema(
    [
        ("corpus", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a commit added. `n_documents` is 0 if every document was in the lake already."""

    commit_number: int
    unit_id: str
    n_documents: int
    n_sequences: int
    n_tokens: int
    n_targets: int
    n_bytes: int


def unit_id_of(recipe_id: str, doc_ids: list[str]) -> str:
    """Id of a work unit: the hash of its recipe and documents, so that a unit computed twice is the same unit."""
    return digest(b"unit", recipe_id.encode(), *(doc_id.encode() for doc_id in sorted(set(doc_ids))))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecipeRows:
    """Captured sequences (CAPTURED) of whole documents under one recipe."""

    rows: pa.Table
    recipe: Mapping[str, Any]


def commit_unit(
    lake: Lake,
    rows: pa.Table,
    *,
    recipe: Mapping[str, Any],
    run_id: str,
    seconds: float,
    sources: pa.Table | None = None,
    rejects: pa.Table | None = None,
) -> Receipt:
    """Commit the rows of one recipe; see `commit_units`."""
    parts = [RecipeRows(rows=rows, recipe=recipe)]
    (receipt,) = commit_units(lake, parts, run_id=run_id, seconds=seconds, sources=sources, rejects=rejects)
    return receipt


def commit_units(
    lake: Lake,
    parts: Sequence[RecipeRows],
    *,
    run_id: str,
    seconds: float,
    sources: pa.Table | None = None,
    rejects: pa.Table | None = None,
) -> list[Receipt]:
    """Commit the sequences of one pass of the teacher, each recipe's rows under it, in one transaction.

    This is where the rows get their unit's id and their checksums. `seconds`: time of the teacher, noted with the first
    recipe that has new rows. `sources` (SOURCES) and `rejects` (REJECTS) come from reading the corpus. Returns a
    receipt per recipe. Raises LakeBusyError if other writers win too often, LakeError if the disk is full; nothing is
    committed then.
    """
    sources = sources if sources is not None else SOURCES.empty_table()
    rejects = rejects if rejects is not None else REJECTS.empty_table()
    ids = [id_of_recipe(part.recipe) for part in parts]
    assert len(set(ids)) == len(ids), "two parts of one recipe would be stored twice"

    def present() -> list[pa.Array]:
        pairs = zip(ids, parts, strict=True)
        return [held_now(lake, recipe_id, part.rows["doc_id"].unique()) for recipe_id, part in pairs]

    def attempt() -> list[Receipt]:
        before = present()
        staged = [_staged(lake, part, known) for part, known in zip(parts, before, strict=True)]
        with lake.transaction() as transaction:
            if list(map(len, present())) != list(map(len, before)):
                raise LostRaceError("some documents of this unit were committed meanwhile")
            insert_sightings(transaction, run_id, sources, rejects)
            receipts, unnoted = [], seconds
            for rows, shard, n_bytes in staged:
                receipts.append(_receipt(transaction.number, rows, n_bytes))
                if shard is not None:
                    register_shard(transaction, shard, rows)
                    _note_commit(transaction, receipts[-1], rows, run_id, unnoted)
                    unnoted = 0.0
        return receipts

    return lake.in_turn(attempt, "the work unit was not committed")


def _staged(lake: Lake, part: RecipeRows, known: pa.Array) -> tuple[pa.Table, str | None, int]:
    """The rows of documents that are not known, their shard and its bytes; no shard if there are none."""
    rows = part.rows.filter(pc.invert(pc.is_in(part.rows["doc_id"], value_set=known))) if len(known) else part.rows
    if not rows.num_rows:
        return rows, None, 0
    rows = stored_rows(rows)
    shard, n_bytes = write_shard(lake.location, rows, part.recipe)
    return rows, shard, n_bytes


def last_data_commit(lake: Lake) -> int:
    """Number of the last commit that added documents; 0 before the first. Notes of runs raise the lake's number too."""
    query = "SELECT coalesce(max(commit_number), 0)::BIGINT AS n FROM store.commits WHERE n_documents > 0"
    return int(lake.row(query)["n"])


def stored_rows(rows: pa.Table) -> pa.Table:
    """Captured rows of one recipe (CAPTURED) as a shard holds them (SEQUENCES): sorted, with unit id and checksums."""
    rows = complete_rows(rows, CAPTURED)
    unit_id = unit_id_of(rows["recipe_id"][0].as_py(), rows["doc_id"].unique().to_pylist())
    named = rows.append_column(SEQUENCES.field("unit_id"), pa.array([unit_id] * rows.num_rows, pa.string()))
    return with_checksums(named.sort_by([("doc_id", "ascending"), ("window_index", "ascending")]))


def register_shard(transaction: Transaction, shard: str, rows: pa.Table) -> None:
    """Within a transaction: register a shard and the documents of its rows."""
    connection = transaction.connection
    # `allow_missing`: a rebuild registers shards of format 1, which lack the columns of format 2.
    connection.execute(
        f"CALL ducklake_add_data_files('{NAME}', 'sequences', ?, schema => 'store', hive_partitioning => true, "
        "allow_missing => true)",
        [shard],
    )
    transaction.insert("documents", documents_of(rows))


def documents_of(rows: pa.Table) -> pa.Table:
    """The rows of the table `documents` that follow from rows of `sequences`."""
    keys = ["doc_id", "recipe_id", "unit_id"]
    grouped = rows.group_by(keys).aggregate([("n_tokens", "sum"), ("n_tokens", "count")])
    return grouped.rename_columns({"n_tokens_sum": "n_tokens", "n_tokens_count": "n_sequences"})


def _note_commit(transaction: Transaction, receipt: Receipt, rows: pa.Table, run_id: str, seconds: float) -> None:
    row = {
        **asdict(receipt),
        "recipe_id": rows["recipe_id"][0].as_py(),
        "run_id": run_id,
        "committed_at": datetime.now(UTC),
        "seconds": float(seconds),
    }
    transaction.insert("commits", pa.Table.from_pylist([row]))


def _receipt(number: int, rows: pa.Table, n_bytes: int) -> Receipt:
    return Receipt(
        commit_number=number,
        unit_id=rows["unit_id"][0].as_py() if rows.num_rows else "",
        n_documents=len(rows["doc_id"].unique()),
        n_sequences=rows.num_rows,
        n_tokens=sum(rows["n_tokens"].to_pylist()),
        n_targets=sum(rows["n_targets"].to_pylist()),
        n_bytes=n_bytes,
    )
