"""The config under which an older recipe goes on.

Recipes of an older logitlake name the teacher's tensors but not its config. Such a recipe keeps its id, and the config
of the first capture that goes on with it is noted beside the data; a teacher of another config gets another recipe.
"""

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import read_note, write_note


def has_recipe(location: LakeLocation, recipe_id: str) -> bool:
    """Whether the lake has this recipe: its file beside the data is written before the first row."""
    return read_note(location, f"recipes/{recipe_id}.json") is not None


def note_config(location: LakeLocation, recipe_id: str, config_hash: str) -> None:
    """Note the config of a recipe that names none."""
    write_note(location, _name(recipe_id), {"config": config_hash})


def noted_config(location: LakeLocation, recipe_id: str) -> str | None:
    """The noted config of a recipe; None if none was noted."""
    note = read_note(location, _name(recipe_id))
    return None if note is None else str(note["config"])


def _name(recipe_id: str) -> str:
    return f"teacher_configs/{recipe_id}.json"
