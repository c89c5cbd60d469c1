"""Answers of probes, kept beside the data: each is asked once, so that the recipe does not move with the corpus."""

import json
from collections.abc import Mapping
from typing import Any

from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.lake.object_store import list_paths, read_all, write_note


def keep_probe(location: LakeLocation, key: str, answer: Mapping[str, Any]) -> None:
    """Keep the answer to the question `key`."""
    write_note(location, _name(key), answer)


def kept_probe(location: LakeLocation, key: str) -> dict[str, Any] | None:
    """The answer that was kept for `key`; None if it was never asked here."""
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
