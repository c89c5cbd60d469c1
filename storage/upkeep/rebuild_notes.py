"""What a rebuild reads besides rows: settings of the lake, recipes, tombstones. Damaged notes are reported."""

import json
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import duckdb

from logitlake.storage.errors import FormatVersionError, LakeError
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.lake.object_store import connect, list_paths, read_all
from logitlake.storage.lake.schema import FORMAT_VERSION
from logitlake.storage.upkeep.table_files import data_files, intact_rows, unreadable_files

NOTED_SETTINGS = ("held_out_salt", "held_out_share", "created_at")
_DOC_ID_LENGTH = 32

Damage = dict[str, str]


def read_settings(location: LakeLocation, damage: Damage) -> dict[str, str]:
    """The settings of the lake: from `lake.json`, or from the files of the table `lake_settings` if it is damaged.

    Raises LakeError if neither tells them, and FormatVersionError for a lake of a newer logitlake.
    """
    settings, problem = _settings_of_note(location)
    if problem and data_files(location, "lake_settings"):
        settings = _settings_of_table(location, damage)
        damage[f"{location.data}lake.json"] = f"{problem}; its values were taken from the table lake_settings"
    if not settings:
        if not data_files(location, "lake_settings") and not data_files(location, "sequences"):
            raise LakeError(
                f"{location.data}: no lake.json here, so this is not the data path of a lake; check lake.data"
            )
        raise LakeError(
            f"{location.data}lake.json: {problem}, and the files of the table lake_settings do not tell its values: "
            f"restore it from a backup; it is a JSON object with {', '.join(('format_version', *NOTED_SETTINGS))}"
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
    for path, note in _notes(location, "tombstones").items():
        doc_id = PurePosixPath(path).stem
        try:
            doc_ids.add(str(json.loads(note)["doc_id"]))
        except (ValueError, KeyError, TypeError):
            damage[path] = f"the tombstone can't be read; document {doc_id} stays forgotten"
        if len(doc_id) == _DOC_ID_LENGTH:
            doc_ids.add(doc_id)
    return doc_ids


def noted_recipes(location: LakeLocation, damage: Damage) -> dict[str, str]:
    """The recipes that have a note beside the data, as JSON by id. A note that gives another id is left out."""
    recipes = {}
    for path, note in _notes(location, "recipes").items():
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


def _notes(location: LakeLocation, folder: str) -> dict[str, bytes]:
    pattern = f"{folder}/*.json"
    return read_all(location, pattern) if list_paths(location, pattern) else {}


def _settings_of_note(location: LakeLocation) -> tuple[dict[str, str], str]:
    """The settings in `lake.json`, and what is wrong with it."""
    if not list_paths(location, "lake.json"):
        return {}, "is missing"
    (content,) = read_all(location, "lake.json").values()
    checks: dict[str, Callable[[Any], object]] = {"format_version": int, "held_out_salt": str, "held_out_share": float}
    try:
        settings = json.loads(content)
        for name, kind in checks.items():
            kind(settings[name])
    except (ValueError, KeyError, TypeError):
        return {}, "is damaged"
    return dict(settings), ""


def _settings_of_table(location: LakeLocation, damage: Damage) -> dict[str, str]:
    paths = data_files(location, "lake_settings")
    values: dict[str, set[str]] = {}
    with connect(location) as connection:
        torn = unreadable_files(connection, "lake_settings", paths)
        damage.update(torn)
        readable = [path for path in paths if path not in torn]
        for rows in intact_rows(connection, "lake_settings", readable, damage):
            for row in rows.to_pylist():
                values.setdefault(row["name"], set()).add(row["value"])
        versions = _format_versions(connection, location)
    settings = {name: min(values[name]) for name in NOTED_SETTINGS if len(values.get(name, ())) == 1}
    if not {"held_out_salt", "held_out_share"} <= set(settings):
        return {}
    return {**settings, "format_version": str(max(versions, default=FORMAT_VERSION))}


def _format_versions(connection: duckdb.DuckDBPyConnection, location: LakeLocation) -> list[int]:
    """The format versions in the footers of the shards that can be read."""
    versions = []
    for path in data_files(location, "sequences"):
        try:
            rows = connection.execute(
                "SELECT value FROM parquet_kv_metadata(?) WHERE key = 'logitlake.format_version'::BLOB", [path]
            ).fetchall()
            versions += [int(row[0]) for row in rows]
        except (duckdb.Error, ValueError):
            continue
    return versions
