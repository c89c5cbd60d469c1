"""The documents of row sets whose rule alone does not tell them to SQL: those with a filter, or chosen by a query."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.row_sets.relation import ask, relation, relation_parameters

if TYPE_CHECKING:
    from logitlake.storage.row_sets.row_set import RowSet


def list_documents(lake: Lake, transaction: Transaction, row_set: "RowSet") -> None:
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
