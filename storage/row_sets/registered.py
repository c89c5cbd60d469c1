"""Row sets in the lake: registered with their documents where needed, and read again later."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from logitlake.storage.errors import IntegrityError, LakeError
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.row_sets.relation import ask, relation, relation_parameters
from logitlake.storage.row_sets.row_set import RowSet, resolve_row_set


def list_documents(lake: Lake, transaction: Transaction, row_set: RowSet) -> None:
    """Within a transaction: list the documents of a row set with a filter or a query, so that a view can tell them.

    Filtered row sets that an older logitlake registered without a list get theirs as well.
    """
    rules = _unlisted(lake)
    if row_set.where or row_set.documents is not None:
        rules[row_set.row_set_id] = (row_set.recipe_ids, row_set.up_to_commit, row_set.where, row_set.documents)
    for row_set_id, (recipe_ids, up_to, where, documents) in rules.items():
        weight = "NULL" if documents is None else "weight"
        listed = ask(
            lake,
            f"""
            SELECT DISTINCT ? AS row_set_id, doc_id, {weight}::DOUBLE AS weight
            FROM {relation(where, documents)} ORDER BY doc_id
            """,
            [row_set_id, *relation_parameters(recipe_ids, up_to, False)],
            documents,
        )
        transaction.insert("row_set_documents", listed)
    if row_set.query is not None:
        queries = pa.table({"row_set_id": [row_set.row_set_id], "query": [row_set.query]})
        transaction.insert("row_set_queries", queries)


def chosen_then(lake: Lake, registered: Mapping[str, Any]) -> dict[str, Any]:
    """The weight of a registered row set, and its query with the documents that the query chose."""
    if registered.get("query") is None:
        return {"weight": registered["weight"]}
    documents = lake.sql(
        "SELECT DISTINCT doc_id, weight FROM store.row_set_documents WHERE row_set_id = ? ORDER BY doc_id",
        [registered["row_set_id"]],
    )
    return {"weight": registered["weight"], "query": registered["query"], "documents": documents}


def _unlisted(lake: Lake) -> dict[str, tuple[Any, ...]]:
    older = lake.sql(
        """
        SELECT * FROM row_sets
        WHERE filter IS NOT NULL AND query IS NULL
            AND row_set_id NOT IN (SELECT row_set_id FROM store.row_set_documents)
        """
    ).to_pylist()
    return {row["row_set_id"]: (row["recipe_ids"], row["up_to_commit"], row["filter"], None) for row in older}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reread:
    """A row set as it can be read today; `n_missing` of its sequences were forgotten since it was registered."""

    rows: RowSet
    n_missing: int


def read_again(lake: Lake, row_set_id: str) -> Reread:
    """The row set with this id (or its beginning). Raises LakeError if there is none, or if none of its rows is left.

    Raises IntegrityError if no row is missing but the content hash differs: rows never change.
    """
    then = lake.row("SELECT * FROM row_sets WHERE starts_with(row_set_id, ?) ORDER BY created_at DESC", [row_set_id])
    if not then:
        raise LakeError(f"no row set {row_set_id!r} in this lake; `logitlake show row-sets` lists them")
    rows = resolve_row_set(
        lake,
        recipe_id=then["recipe_ids"],
        where=then["filter"],
        up_to_commit=then["up_to_commit"],
        **chosen_then(lake, then),
    )
    n_missing = then["n_sequences"] - rows.n_sequences
    if n_missing <= 0 and rows.content_hash != then["content_hash"]:
        raise IntegrityError(
            f"row set {then['row_set_id']}: expected content {then['content_hash']}, found {rows.content_hash} in "
            f"{rows.n_sequences} sequences ({then['n_sequences']} then): `logitlake verify` names what is damaged"
        )
    return Reread(rows=rows, n_missing=n_missing)


def register_row_set(lake: Lake, row_set: RowSet) -> None:
    """Register a row set, so that a student can refer to it. Idempotent."""

    def is_registered() -> bool:
        return bool(lake.row("SELECT 1 AS present FROM store.row_sets WHERE row_set_id = ?", [row_set.row_set_id]))

    def register(transaction: Transaction) -> None:
        if is_registered():
            return
        list_documents(lake, transaction, row_set)
        row = {
            "row_set_id": row_set.row_set_id,
            "recipe_ids": list(row_set.recipe_ids),
            "up_to_commit": row_set.up_to_commit,
            "filter": row_set.where,
            "weight": row_set.weight,
            "n_sequences": row_set.n_sequences,
            "n_tokens": row_set.n_tokens,
            "n_targets": row_set.n_targets,
            "content_hash": row_set.content_hash,
            "created_at": datetime.now(UTC),
        }
        transaction.insert("row_sets", pa.Table.from_pylist([row]))

    if not is_registered():
        lake.change(register)
