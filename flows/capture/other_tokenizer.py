"""Finds that a capture would begin anew because the teacher's tokenizer is another than before."""

from collections.abc import Mapping
from typing import Any

from logitlake.flows.capture.preparation import Prepared
from logitlake.storage.identity import FACTS
from logitlake.storage.lake.lake import Lake
from logitlake.storage.writing.recipes import stored_recipes

# What a recipe takes from the tokenizer, and what is not hashed.
_OF_THE_TOKENIZER = ("tokenizer", "vocabulary", "chat", "bos", FACTS)


def other_tokenizer(prepared: Prepared, lake: Lake) -> str:
    """What a person should know if the lake has the recipe with another tokenizer only; else an empty text."""
    recipes = stored_recipes(lake)
    if prepared.recipe.recipe_id in recipes:
        return ""
    rest = _without_tokenizer(prepared.recipe.to_dict())
    older = [recipe_id for recipe_id, recipe in recipes.items() if _without_tokenizer(recipe) == rest]
    if not older:
        return ""
    return (
        f"the lake holds recipe {older[-1]}, of the same teacher with another tokenizer: all documents are captured "
        f"again under recipe {prepared.recipe.recipe_id}. The older rows stay readable. To go on with the older "
        "recipe, restore the tokenizer's files; for a GGUF file set teacher.gguf_tokenizer to transformers"
    )


def _without_tokenizer(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name not in _OF_THE_TOKENIZER}
