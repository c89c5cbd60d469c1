"""The question that a target-size probe answers: needed to plan, so it loads no torch."""

from logitlake.pipeline.capture.recipe import Recipe
from logitlake.storage.identity import FACTS, canonical_json, digest


def probe_key(recipe: Recipe, target_bytes: float) -> str:
    """Id of the question: the recipe without the value to be chosen, and the size wished for.

    Keep the answer under it, and ask only once: a corpus that has grown would give another third digit, and with it
    another recipe, under which nothing is cached.
    """
    content = recipe.to_dict()
    content.pop(FACTS)
    content["sparsifier"].pop(recipe.target.size_knob.setting)
    if recipe.target.levels_are_the_knob:
        content.pop("quantiser")
    return digest(b"probe", canonical_json(content), canonical_json(float(target_bytes)))
