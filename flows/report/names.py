"""What recipes are called on the page: short words where they tell them apart, and always the same ones."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_KNOBS = {"threshold": "τ", "draws": "N", "k": "k", "p": "p"}


def recipe_names(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By recipe id: teacher and sparsifier, and the beginning of the id where two would have the same name."""
    names = {row["recipe_id"]: _name(json.loads(row["recipe"])) for row in rows}
    counts = Counter(names.values())
    return {key: name if counts[name] == 1 else f"{name} ({key[:8]})" for key, name in names.items()}


def _name(recipe: Mapping[str, Any]) -> str:
    sparsifier = recipe["sparsifier"]
    knobs = [f"{_KNOBS[key]} = {value:g}" for key, value in sparsifier.items() if key in _KNOBS]
    return ", ".join([recipe["teacher"]["name"], " ".join([sparsifier["name"], *knobs])])
