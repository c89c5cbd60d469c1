"""What readers must know of a recipe's targets without the code of the sparsifier that made them.

A recipe states it under `facts`. Older recipes have no such key: the facts of their sparsifiers are listed here.
"""

from collections.abc import Mapping
from typing import Any

from logitlake.storage.identity import FACTS

_WHOLE = {"teacher_gives": "distribution"}
FACTS_OF_OLD_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "varopt": {"unbiased": True, "cuts_mass": False, "heads": "probabilities", "noise": "systematic", **_WHOLE},
    "random": {"unbiased": True, "cuts_mass": False, "heads": "counts", "noise": "multinomial", **_WHOLE},
    "top_k": {"unbiased": False, "cuts_mass": True, "heads": "probabilities", "noise": None, **_WHOLE},
    "top_p": {"unbiased": False, "cuts_mass": True, "heads": "probabilities", "noise": None, **_WHOLE},
}


def target_facts(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The facts of a stored recipe; empty where nothing is known: readers then assume nothing."""
    return recipe.get(FACTS) or FACTS_OF_OLD_RECIPES.get(recipe["sparsifier"]["name"], {})
