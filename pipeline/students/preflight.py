"""What would stop a training and costs nothing to find out: checked before a server or torch is started."""

import json
from pathlib import Path
from typing import Any

from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.identity import read_facts
from logitlake.pipeline.teachers.files import TeacherFiles
from logitlake.storage.errors import SettingsError


def check_training(student: StudentSettings, teacher: TeacherFiles | None, *, output: Path, student_id: str) -> None:
    """Raises SettingsError if the output is in use, or if the teacher has fewer layers than the student asks for."""
    try:
        str(output).encode()
    except UnicodeEncodeError:
        raise SettingsError(
            f"training.output {str(output)!r}: found bytes that are not UTF-8, which safetensors can't write to; "
            "choose another path"
        ) from None
    existing_facts(output, student_id)
    if student.source == "teacher" and student.layers is not None and teacher is not None:
        total = _layers_of(teacher.directory)
        if total is not None:
            check_layers(total, student.layers)


def existing_facts(output: Path, student_id: str) -> dict[str, Any] | None:
    """Facts of the student if `output` holds it, None if `output` is missing or empty; else raises SettingsError."""
    facts = read_facts(output)
    if facts.get("student_id") == student_id:
        return facts
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        content = f"student {facts['student_id'][:12]}" if "student_id" in facts else "files that are not a student"
        raise SettingsError(
            f"training.output {output}: expected an empty directory for student {student_id[:12]}, found {content}; "
            "set another directory, or move that one away"
        )
    return None


def check_layers(total: int, n_layers: int) -> None:
    """Raises SettingsError if `n_layers` can't be cut from `total`."""
    if not 1 <= n_layers <= total:
        raise SettingsError(f"student.layers: expected 1 to {total}, the teacher's layers, found {n_layers}")


def _layers_of(directory: Path) -> int | None:
    """The number of layers in a config; None where it is written in another way."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        total = config.get("text_config", config).get("num_hidden_layers")
    except (OSError, ValueError, AttributeError):
        return None
    return total if isinstance(total, int) else None
