"""Recipes and vocabularies: what a reader needs to understand the rows of a capture."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.connection.object_store import write_note
from logitlake.storage.errors import LakeError
from logitlake.storage.identity import FACTS
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.writing.teacher_configs import noted_config


def register_recipe(lake: Lake, recipe: Mapping[str, Any]) -> str:
    """Register a recipe, in the catalog and as a small file beside the data; returns its id. Idempotent."""
    recipe_id = id_of_recipe(recipe)

    def is_registered() -> bool:
        return bool(lake.row("SELECT 1 AS present FROM store.recipes WHERE recipe_id = ?", [recipe_id]))

    def register(transaction: Transaction) -> None:
        if not is_registered():
            row = {
                "recipe_id": recipe_id,
                "recipe": json.dumps(recipe, sort_keys=True),
                "created_at": datetime.now(UTC),
            }
            transaction.insert("recipes", pa.Table.from_pylist([row]))

    if not is_registered():
        write_note(lake.location, f"recipes/{recipe_id}.json", dict(recipe))
        lake.change(register)
    return recipe_id


def find_recipe(lake: Lake, prefix: str | None = None) -> tuple[str, dict[str, Any]]:
    """The recipe whose id starts with `prefix`, or the only one there is. Raises LakeError naming the candidates."""
    rows = lake.sql(
        "SELECT recipe_id, recipe FROM recipes WHERE starts_with(recipe_id, ?) ORDER BY created_at", [prefix or ""]
    )
    matches = [(row["recipe_id"], _with_noted_config(lake, json.loads(row["recipe"]))) for row in rows.to_pylist()]
    if not matches:
        start = f" whose id starts with {prefix!r}" if prefix else ""
        raise LakeError(f"expected one recipe{start} in the lake, found none: `logitlake show recipes` lists them")
    if len(matches) > 1:
        candidates = ", ".join(recipe_id[:12] for recipe_id, _ in matches)
        raise LakeError(f"expected one recipe, found {candidates}: give more of the id (`logitlake show recipes`)")
    return matches[0]


def stored_recipes(lake: Lake) -> dict[str, dict[str, Any]]:
    """All recipes of the lake by id, the oldest first."""
    rows = lake.sql("SELECT recipe_id, recipe FROM recipes ORDER BY created_at, recipe_id").to_pylist()
    return {row["recipe_id"]: json.loads(row["recipe"]) for row in rows}


def _with_noted_config(lake: Lake, recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe of an older logitlake, with the config under which it goes on among its facts."""
    if "config" in recipe.get("teacher", {}):
        return recipe
    config = noted_config(lake.location, id_of_recipe(recipe))
    return recipe if config is None else {**recipe, FACTS: {**recipe.get(FACTS, {}), "teacher_config": config}}


def register_vocabulary(lake: Lake, tokenizer_id: str, tokens: Sequence[str], special: set[int]) -> None:
    """Register the text of every token id, for joins in SQL. `tokens[i]` is the text of id i. Idempotent; completes a
    vocabulary that a repair left incomplete."""

    def missing() -> pa.Array:
        held = lake.sql("SELECT DISTINCT token_id FROM store.vocabulary WHERE tokenizer_id = ?", [tokenizer_id])
        ids = pa.array(range(len(tokens)), pa.int32())
        return ids.filter(pc.invert(pc.is_in(ids, value_set=held["token_id"].combine_chunks())))

    if not len(missing()):
        return
    rows = pa.table(
        {
            "tokenizer_id": pa.array([tokenizer_id] * len(tokens), pa.string()),
            "token_id": pa.array(range(len(tokens)), pa.int32()),
            "token": pa.array(tokens, pa.string()),
            "is_special": pa.array([number in special for number in range(len(tokens))], pa.bool_()),
        }
    )
    # Two captures may start at the same time, and a vocabulary that is stored twice would double every join: the check
    # is repeated inside the transaction.
    lake.change(lambda transaction: transaction.insert("vocabulary", rows.take(missing())))
