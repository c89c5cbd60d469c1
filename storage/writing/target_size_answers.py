"""Answers of the search for a threshold (`target_bytes`), stored beside the data.

The search runs once for a question, so that the recipe does not change when the corpus grows.
"""

from collections.abc import Mapping
from typing import Any

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import read_note, write_note


def keep_probe(location: LakeLocation, key: str, answer: Mapping[str, Any]) -> None:
    """Store the answer to the question `key`."""
    write_note(location, _name(key), answer)


def kept_probe(location: LakeLocation, key: str) -> dict[str, Any] | None:
    """The stored answer to the question `key`; None if there is none."""
    return read_note(location, _name(key))


def _name(key: str) -> str:
    return f"probes/{key}.json"
