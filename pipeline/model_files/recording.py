"""A recording: a directory with the logits that a teacher gave, a file for each sequence, and what made them.

A sequence is known by its content: its token ids, and which positions have a target. Needs no torch.

Shapes: n tokens of one sequence.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitlake.storage.errors import MismatchError, SettingsError
from logitlake.storage.identity import digest

_INDEX = "recording.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class RecordedTeacher:
    """The teacher of a recording. `teacher` is that part of the recipe, which names weights, engine and dtype.

    `origin` is where the teacher comes from, for people: TeacherOrigin as a dict.
    """

    teacher: Mapping[str, Any]
    origin: Mapping[str, Any]
    vocabulary: int
    n_parameters: int


def read_recording(directory: Path) -> RecordedTeacher:
    """Who made a recording. Raises SettingsError if there is none in the directory."""
    path = directory / _INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError
        return RecordedTeacher(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SettingsError(
            f"teacher.replay.recording {directory}: expected a recording with {_INDEX} of format {_FORMAT}, found "
            f"{'another file of this name' if path.exists() else 'none'}; make one by a capture with capture.record"
        ) from None


def begin_recording(directory: Path, recorded: RecordedTeacher) -> None:
    """Make the directory, or go on with a recording of the same teacher. Raises MismatchError if it is of another."""
    path = directory / _INDEX
    if path.exists():
        found = read_recording(directory)
        if (found.teacher, found.vocabulary) != (recorded.teacher, recorded.vocabulary):
            raise MismatchError(
                f"capture.record {directory}: holds a recording of {_words(found)}, and this capture is of "
                f"{_words(recorded)}; name another directory"
            )
        return
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": _FORMAT, **asdict(recorded)}, indent=2)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=directory, suffix=".tmp", delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def sequence_file(directory: Path, input_ids: NDArray[np.int32], has_target: NDArray[np.bool_]) -> Path:
    """The file of a sequence: `input_ids` [n], `has_target` [n]."""
    name = digest(b"recording", input_ids.astype("<i4").tobytes(), has_target.astype(np.uint8).tobytes())
    return directory / name[:2] / f"{name}.safetensors"


def _words(recorded: RecordedTeacher) -> str:
    teacher = recorded.teacher
    return f"{teacher['name']} ({teacher['weights'][:8]}, engine {teacher['engine']}, {teacher['dtype']})"
