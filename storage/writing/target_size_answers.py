"""Answers of the search for a threshold (`target_bytes`), stored beside the data.

The search runs once for a question, so that the recipe does not change when the corpus grows.
"""

import json
from collections.abc import Mapping
from typing import Any

from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.lake.object_store import list_paths, read_all, write_note


def keep_probe(location: LakeLocation, key: str, answer: Mapping[str, Any]) -> None:
    """Store the answer to the question `key`."""
    write_note(location, _name(key), answer)


def kept_probe(location: LakeLocation, key: str) -> dict[str, Any] | None:
    """The stored answer to the question `key`; None if there is none."""
    directory = location.data_directory
    if directory is not None and not directory.is_dir():
        return None
    if not list_paths(location, _name(key)):
        return None
    (content,) = read_all(location, _name(key)).values()
    answer: dict[str, Any] = json.loads(content)
    return answer


def _name(key: str) -> str:
    return f"probes/{key}.json"
