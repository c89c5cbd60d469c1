"""Directories of students: a candidate's directory is named by its id and moves with the lake."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.students.identity import read_facts
from logitlake.storage.errors import SettingsError


def students_directory(config: Config) -> Path:
    """The parent directory of candidates. Raises SettingsError if there is none."""
    directory = _candidates(config)
    if directory is None:
        raise SettingsError(
            "redistill.students: expected a directory for the candidates, found none: with a catalog on a server, "
            "name a directory that every machine sees"
        )
    return directory


def directory_of(config: Config, student: Mapping[str, Any]) -> Path:
    """The directory of a registered student: the recorded one, or among the candidates if the lake was moved.

    If the student is in neither, the recorded one is returned.
    """
    recorded = Path(student["directory"])
    parent = _candidates(config)
    possible = [recorded, *([parent / student["student_id"]] if parent else [])]
    return next((path for path in possible if read_facts(path).get("student_id") == student["student_id"]), recorded)


def _candidates(config: Config) -> Path | None:
    if config.redistill.students is not None:
        return config.redistill.students.expanduser().absolute()
    state = location_of(config).state_directory
    return state / "students" if state is not None else None
