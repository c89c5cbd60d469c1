"""The key of a target-size probe. Loads no torch, because planning needs it."""

from logitlake.pipeline.capture.recipe import Recipe
from logitlake.storage.identity import FACTS, canonical_json, digest


def probe_key(recipe: Recipe, target_bytes: float) -> str:
    """Hash of the recipe without the value to be chosen, and of the requested size.

    Store the result of the probe under this key and reuse it: probing a grown corpus could give a slightly different
    value, and with it another recipe, under which nothing is cached.
    """
    content = recipe.to_dict()
    content.pop(FACTS)
    content["sparsifier"].pop(recipe.target.size_knob.setting)
    if recipe.target.levels_are_the_knob:
        content.pop("quantiser")
    return digest(b"probe", canonical_json(content), canonical_json(float(target_bytes)))
