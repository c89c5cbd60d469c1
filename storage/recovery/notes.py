"""What a rebuild reads besides rows: settings of the lake, recipes, tombstones. Damaged notes are reported."""

import json
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import connect, list_paths, read_all
from logitlake.storage.errors import FormatVersionError, LakeError
from logitlake.storage.identity import ID_LENGTH, TRACE_ID_LENGTH
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.migration import LAKE_NOTES
from logitlake.storage.schema.sequences import FORMAT_VERSION

_NOTED: dict[str, Callable[[Any], object]] = {"format_version": int, "held_out_salt": str, "held_out_share": float}

Damage = dict[str, str]


def read_settings(location: LakeLocation, damage: Damage) -> dict[str, str]:
    """The settings of the lake: from `lake.json`, or from its copy if it is damaged.

    Raises LakeError if neither can be read, and FormatVersionError for a lake of a newer logitlake.
    """
    notes = {name: content for name in LAKE_NOTES for content in _contents(location, name).values()}
    if not notes:
        raise LakeError(f"{location.data}: no lake.json here, so this is not the data path of a lake; check lake.data")
    settings: dict[str, str] = {}
    for name, content in notes.items():
        read = _settings(content)
        if read is None:
            damage[f"{location.data}{name}"] = "the note can't be read"
        settings = settings or read or {}
    if not settings:
        raise LakeError(
            f"{location.data}lake.json: expected a JSON object with {', '.join(_NOTED)}, found a damaged file, and no "
            "copy of it can be read: restore it from a backup, or write it anew with the values of lake.held_out at "
            f"the time when the lake was made and format_version {FORMAT_VERSION}"
        )
    version = int(settings["format_version"])
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{location.data} has format version {version}, this logitlake reads up to {FORMAT_VERSION}: upgrade it"
        )
    return settings


def forgotten_documents(location: LakeLocation, damage: Damage) -> set[str]:
    """The documents that have a tombstone beside the data. The file is named after the document, so damage to what it
    says brings no document back."""
    doc_ids = set()
    for path, note in _contents(location, "tombstones/*.json").items():
        doc_id = PurePosixPath(path).stem
        try:
            doc_ids.add(str(json.loads(note)["doc_id"]))
        except (ValueError, KeyError, TypeError):
            damage[path] = f"the tombstone can't be read; document {doc_id} stays forgotten"
        if len(doc_id) in (ID_LENGTH, TRACE_ID_LENGTH):
            doc_ids.add(doc_id)
    return doc_ids


def noted_recipes(location: LakeLocation, damage: Damage) -> dict[str, str]:
    """The recipes that have a note beside the data, as JSON by id. A note that gives another id is left out."""
    recipes = {}
    for path, note in _contents(location, "recipes/*.json").items():
        recipe_id = PurePosixPath(path).stem
        recipe = _recipe_with_id(recipe_id, note)
        if recipe is None:
            damage[path] = f"the note does not hold recipe {recipe_id}"
        else:
            recipes[recipe_id] = recipe
    return recipes


def recipe_in_footer(location: LakeLocation, path: str, recipe_id: str) -> str | None:
    """The recipe in the footer of a shard, as JSON; None if the footer has none with that id."""
    with connect(location) as connection:
        rows = connection.execute(
            "SELECT value FROM parquet_kv_metadata(?) WHERE key = 'logitlake.recipe'::BLOB", [path]
        ).fetchall()
    return _recipe_with_id(recipe_id, rows[0][0]) if rows else None


def _recipe_with_id(recipe_id: str, content: bytes) -> str | None:
    try:
        recipe = json.loads(content)
        matches = isinstance(recipe, dict) and id_of_recipe(recipe) == recipe_id
    except (ValueError, RecursionError):
        return None
    return json.dumps(recipe, sort_keys=True) if matches else None


def _contents(location: LakeLocation, pattern: str) -> dict[str, bytes]:
    return read_all(location, pattern) if list_paths(location, pattern) else {}


def _settings(content: bytes) -> dict[str, str] | None:
    """The settings in a note; None if it is damaged."""
    try:
        settings = json.loads(content)
        for name, kind in _NOTED.items():
            kind(settings[name])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return dict(settings)
