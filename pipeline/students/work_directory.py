"""Where a training that has not ended keeps its checkpoints."""

import os
from pathlib import Path

_MAX_NAME_BYTES = 255
_CHECKPOINTS = "checkpoints"


def work_directory(output: Path, student_id: str) -> Path:
    """Where checkpoints and the unfinished student lie: beside `output`, and the same after a kill."""
    name = f".{output.name}.{student_id[:12]}"
    return output.with_name(name if len(os.fsencode(name)) <= _MAX_NAME_BYTES else f".{student_id}")


def checkpoints_directory(output: Path, student_id: str) -> Path:
    """The directory of the checkpoints in the work directory."""
    return work_directory(output, student_id) / _CHECKPOINTS


def checkpoints_of(output: Path, student_id: str) -> list[Path]:
    """The directories of its checkpoints, in no order; whether each is whole is not looked at."""
    return list(checkpoints_directory(output, student_id).glob("checkpoint-*"))
