"""What a probe is asked, and where its answer goes: needed to plan, so it loads no torch."""

from logitlake.pipeline.capture.recipe import Recipe
from logitlake.pipeline.settings.models import TargetSettings
from logitlake.storage.identity import canonical_json, digest

# The setting of each sparsifier that decides how many bytes a target takes.
PROBED_SETTING = {"varopt": "threshold", "random": "draws", "top_k": "k", "top_p": "p"}


def probe_key(recipe: Recipe, target_bytes: float) -> str:
    """Id of the question that a probe answers: the recipe but for the value to be chosen, and the size wanted.

    Keep the answer under it, and ask only once: a corpus that has grown would give another third digit, and with it
    another recipe, under which nothing is cached.
    """
    content = recipe.to_dict()
    content["sparsifier"].pop(PROBED_SETTING[recipe.target.sparsifier])
    if recipe.target.sparsifier == "random":
        content.pop("quantiser")
    return digest(b"probe", canonical_json(content), canonical_json(float(target_bytes)))


def with_value(target: TargetSettings, value: float) -> TargetSettings:
    """`target` with the probed value in its place, and no wish left."""
    exact = value if target.sparsifier in ("varopt", "top_p") else int(value)
    return target.model_copy(update={PROBED_SETTING[target.sparsifier]: exact, "target_bytes": None})
