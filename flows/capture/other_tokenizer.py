"""Finds that a capture would begin anew because the teacher's tokenizer is another than before."""

from collections.abc import Mapping
from typing import Any

from logitlake.flows.capture.preparation import Prepared
from logitlake.pipeline.model_files.older_reading import older_reading, same_texts
from logitlake.pipeline.tokens.same_ids import first_difference
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.identity import FACTS
from logitlake.storage.lake.lake import Lake
from logitlake.storage.writing.recipes import stored_recipes
from logitlake.storage.writing.teacher_configs import noted_config

# What a recipe takes from the tokenizer, and what is not hashed. Settings decide parts of `chat` and `bos` too.
_OF_THE_TOKENIZER = ("tokenizer", "vocabulary", "chat", "bos", FACTS)


def other_tokenizer(prepared: Prepared, lake: Lake) -> str:
    """What a person should know if the lake has the recipe with another tokenizer only; else an empty text."""
    recipes = stored_recipes(lake)
    if prepared.recipe.recipe_id in recipes:
        return ""
    recipe = prepared.recipe.to_dict()
    older = [recipe_id for recipe_id, stored in recipes.items() if _is_older(lake, recipe_id, stored, recipe)]
    if not older:
        return ""
    stored = recipes[older[-1]]
    return (
        f"the lake holds recipe {older[-1]}, of the same teacher with another tokenizer{_also(stored, recipe)}: all "
        f"documents are captured again under recipe {prepared.recipe.recipe_id}. The older rows stay readable. "
        f"{_reason(prepared, stored)}"
    )


def _is_older(lake: Lake, recipe_id: str, stored: Mapping[str, Any], recipe: Mapping[str, Any]) -> bool:
    """Whether a stored recipe is the same but for its tokenizer. One that names no config has the noted one, or any."""
    if stored.get("tokenizer") == recipe["tokenizer"]:
        return False
    rest, today = _without_tokenizer(stored), _without_tokenizer(recipe)
    if "config" not in rest.get("teacher", {}):
        rest["teacher"] = {**rest.get("teacher", {})}
        today["teacher"] = {**today["teacher"]}
        config = today["teacher"].pop("config", None)
        return rest == today and noted_config(lake.location, recipe_id) in (None, config)
    return rest == today


def _without_tokenizer(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name not in _OF_THE_TOKENIZER}


def _also(stored: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """What differs beside the tokenizer, because of it or by the settings."""
    values = {
        "BOS": (stored.get("bos"), recipe["bos"]),
        "chat template": (stored.get("chat", {}).get("template"), recipe["chat"]["template"]),
        "tokenization.chat_targets": (stored.get("chat", {}).get("targets"), recipe["chat"]["targets"]),
    }
    differing = [f"{name} {before}, now {now}" for name, (before, now) in values.items() if before != now]
    return f" ({'; '.join(differing)})" if differing else ""


def _reason(prepared: Prepared, stored: Mapping[str, Any]) -> str:
    """Why the tokenizer differs, as far as the files show, and what a person can do."""
    older = older_reading(prepared.files.directory, chat_template=prepared.config.tokenization.chat_template)
    if older is None or older.fingerprint != stored.get("tokenizer"):
        return (
            "To go on with the older recipe, restore the tokenizer's files; for a GGUF file set teacher.gguf_tokenizer "
            "to transformers"
        )
    now = prepared.tokenizer
    if not same_texts(older, now):
        difference = first_difference(older.backend, now.backend)
        what = difference.words("tokenizer.json", "transformers") if difference else "the definitions differ"
        return f"The files are the same: an older logitlake read tokenizer.json alone, and {what}"
    return (
        "The files are the same: an older logitlake read them without transformers, with "
        f"{_rule(older)}; transformers reads {_rule(now)}. Students can still be trained on the older rows"
    )


def _rule(tokenizer: TextTokenizer) -> str:
    begins = "texts begin with BOS" if tokenizer.adds_bos else "no BOS before texts"
    return f"BOS {tokenizer.bos_id}, EOS {tokenizer.eos_id}, {begins}"
