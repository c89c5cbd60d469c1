"""The documents of row sets whose rule alone does not tell them to SQL: those with a filter, or chosen by a query."""

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
    """Within a transaction: keep the documents of a row set where its rule alone does not tell them to SQL.

    So too for filtered row sets that an older logitlake registered: it kept no list of them.
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


def chosen_then(lake: Lake, found: Mapping[str, Any]) -> dict[str, Any]:
    """What a registered row set was chosen by: its weight, or its query with what that chose."""
    if found.get("query") is None:
        return {"weight": found["weight"]}
    documents = lake.sql(
        "SELECT DISTINCT doc_id, weight FROM store.row_set_documents WHERE row_set_id = ? ORDER BY doc_id",
        [found["row_set_id"]],
    )
    return {"weight": found["weight"], "query": found["query"], "documents": documents}


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
    """A row set as it can be read today; `n_missing` sequences that were there at first are forgotten since."""

    rows: RowSet
    n_missing: int


def read_again(lake: Lake, row_set_id: str) -> Reread:
    """The row set with this id (or its beginning), by its own rule. Raises LakeError if there is none, or nothing left.

    Raises IntegrityError if no row is missing and yet the content is another one: rows never change.
    """
    found = lake.row("SELECT * FROM row_sets WHERE starts_with(row_set_id, ?) ORDER BY created_at DESC", [row_set_id])
    if not found:
        raise LakeError(f"no row set {row_set_id!r} in this lake; `logitlake show row-sets` lists those there are")
    rows = resolve_row_set(
        lake,
        recipe_id=found["recipe_ids"],
        where=found["filter"],
        up_to_commit=found["up_to_commit"],
        **chosen_then(lake, found),
    )
    n_missing = found["n_sequences"] - rows.n_sequences
    if n_missing <= 0 and rows.content_hash != found["content_hash"]:
        raise IntegrityError(
            f"row set {found['row_set_id']}: expected content {found['content_hash']}, found {rows.content_hash} in "
            f"{rows.n_sequences} sequences ({found['n_sequences']} then): `logitlake verify` names what is damaged"
        )
    return Reread(rows=rows, n_missing=n_missing)


def register_row_set(lake: Lake, row_set: RowSet) -> None:
    """Make a row set known, so that a student can name it. Idempotent."""

    def known() -> bool:
        return bool(lake.row("SELECT 1 AS found FROM store.row_sets WHERE row_set_id = ?", [row_set.row_set_id]))

    def register(transaction: Transaction) -> None:
        if known():
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

    if not known():
        lake.change(register)
