"""Where students lie: each candidate in a directory named by its id, which moves with the lake."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.students.identity import read_facts
from logitlake.storage.errors import SettingsError


def students_directory(config: Config) -> Path:
    """Where candidates go."""
    directory = _own_directory(config)
    if directory is None:
        raise SettingsError(
            "redistill.students: expected a directory for the candidates, found nothing, and a catalog on a server "
            "has no folder of its own: name one that every machine of the flow sees"
        )
    return directory


def directory_of(config: Config, student: Mapping[str, Any]) -> Path:
    """Where a registered student is: where it was put, or among the candidates if the lake was moved or restored.

    If it is in neither place, the first is returned.
    """
    put = Path(student["directory"])
    own = _own_directory(config)
    places = [put, *([own / student["student_id"]] if own else [])]
    return next((place for place in places if read_facts(place).get("student_id") == student["student_id"]), put)


def _own_directory(config: Config) -> Path | None:
    if config.redistill.students is not None:
        return config.redistill.students.expanduser().absolute()
    state = location_of(config).state_directory
    return state / "students" if state is not None else None
