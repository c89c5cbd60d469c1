"""Recipes and vocabularies: what explains the rows of a capture."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from logitlake.storage.errors import LakeError
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.lake.object_store import write_note


def register_recipe(lake: Lake, recipe: Mapping[str, Any]) -> str:
    """Make a recipe known, in the catalog and as a small file beside the data; returns its id. Idempotent."""
    recipe_id = id_of_recipe(recipe)

    def known() -> bool:
        return bool(lake.row("SELECT 1 AS found FROM store.recipes WHERE recipe_id = ?", [recipe_id]))

    def register(transaction: Transaction) -> None:
        if not known():
            row = {
                "recipe_id": recipe_id,
                "recipe": json.dumps(recipe, sort_keys=True),
                "created_at": datetime.now(UTC),
            }
            transaction.insert("recipes", pa.Table.from_pylist([row]))

    if not known():
        write_note(lake.location, f"recipes/{recipe_id}.json", dict(recipe))
        lake.change(register)
    return recipe_id


def find_recipe(lake: Lake, prefix: str | None = None) -> tuple[str, dict[str, Any]]:
    """The recipe whose id starts with `prefix`, or the only one there is. Raises LakeError naming the candidates."""
    rows = lake.sql(
        "SELECT recipe_id, recipe FROM recipes WHERE starts_with(recipe_id, ?) ORDER BY created_at", [prefix or ""]
    )
    found = [(row["recipe_id"], json.loads(row["recipe"])) for row in rows.to_pylist()]
    if len(found) != 1:
        wanted = f"recipe {prefix!r}" if prefix else "one recipe"
        have = ", ".join(recipe_id[:12] for recipe_id, _ in found) or "none"
        raise LakeError(
            f"expected {wanted} in the lake, found {have}: name one by a longer prefix (`logitlake show recipes`)"
        )
    return found[0]


def register_vocabulary(lake: Lake, tokenizer_id: str, tokens: Sequence[str], special: set[int]) -> None:
    """Make the text of every token id known, for joins in SQL. `tokens[i]` is the text of id i. Idempotent."""

    def known() -> bool:
        return bool(lake.row("SELECT 1 AS found FROM store.vocabulary WHERE tokenizer_id = ? LIMIT 1", [tokenizer_id]))

    if known():
        return
    rows = pa.table(
        {
            "tokenizer_id": pa.array([tokenizer_id] * len(tokens), pa.string()),
            "token_id": pa.array(range(len(tokens)), pa.int32()),
            "token": pa.array(tokens, pa.string()),
            "is_special": pa.array([number in special for number in range(len(tokens))], pa.bool_()),
        }
    )
    # Two captures may begin at once, and every join with a vocabulary that stands twice counts twice: looked at again.
    lake.change(lambda transaction: None if known() else transaction.insert("vocabulary", rows))
