"""A recording: a directory with the logits that a teacher gave, a file for each sequence, and what made them.

A sequence is known by its content: its token ids, and which positions have a target. Needs no torch.

Shapes: n tokens of one sequence.
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitlake.storage.errors import MismatchError, SettingsError
from logitlake.storage.identity import canonical_json, digest

_INDEX = "recording.json"
_FORMAT = 1
# In the metadata of a sequence's file: whose logits they are.
TEACHER = "teacher"


@dataclass(frozen=True, kw_only=True)
class RecordedTeacher:
    """The teacher of a recording. `teacher` is that part of the recipe, which names weights, engine and dtype.

    `origin` is where the teacher comes from, for people: TeacherOrigin as a dict.
    """

    teacher: Mapping[str, Any]
    origin: Mapping[str, Any]
    vocabulary: int
    n_parameters: int

    @property
    def identity(self) -> str:
        """The hash of what decides its logits."""
        return digest(b"recorded", canonical_json([dict(self.teacher), self.vocabulary]))


def read_recording(directory: Path) -> RecordedTeacher:
    """Who made a recording. Raises SettingsError if there is none in the directory."""
    path = directory / _INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError
        return RecordedTeacher(**content)
    except PermissionError as error:
        raise SettingsError(f"teacher.replay.recording {directory}: {path} can't be read ({error.strerror})") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SettingsError(
            f"teacher.replay.recording {directory}: expected a recording with {_INDEX} of format {_FORMAT}, found "
            f"{'another file of this name' if path.exists() else 'none'}; make one by a capture with capture.record"
        ) from None


def begin_recording(directory: Path, recorded: RecordedTeacher) -> None:
    """Make the directory, or go on with a recording of the same teacher. Raises MismatchError if it is of another."""
    path = directory / _INDEX
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        staged = staged_beside(path)
        staged.write_text(json.dumps({"format": _FORMAT, **asdict(recorded)}, indent=2), encoding="utf-8")
        publish(staged, path)
    # Also if it was made just now: another capture may have been first.
    found = read_recording(directory)
    if found.identity != recorded.identity:
        raise MismatchError(
            f"capture.record {directory}: holds a recording of {_words(found)}, and this capture is of "
            f"{_words(recorded)}; name another directory"
        )


def staged_beside(path: Path) -> Path:
    """A name for a file that is not whole yet."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")


def publish(staged: Path, path: Path) -> None:
    """Give a staged file its name, on disk, unless there is a file of this name: the first one stays."""
    with staged.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(staged, path)
    except FileExistsError:
        pass
    finally:
        staged.unlink()


def sequence_file(directory: Path, input_ids: NDArray[np.int32], has_target: NDArray[np.bool_]) -> Path:
    """The file of a sequence: `input_ids` [n], `has_target` [n]."""
    name = digest(b"recording", input_ids.astype("<i4").tobytes(), has_target.astype(np.uint8).tobytes())
    return directory / name[:2] / f"{name}.safetensors"


def _words(recorded: RecordedTeacher) -> str:
    teacher = recorded.teacher
    return f"{teacher['name']} ({teacher['weights'][:8]}, engine {teacher['engine']}, {teacher['dtype']})"
