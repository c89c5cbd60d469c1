"""The engine `replay`: logits that another engine gave, from disk, bit for bit.

Shapes: p positions of one chunk, V vocabulary.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.recording import TEACHER, RecordedTeacher, read_recording, sequence_file
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.engine import NotRecordedError
from logitlake.pipeline.teachers.output_layer import chunk_rows
from logitlake.storage.errors import IntegrityError


class ReplayEngine:
    """A recording in place of a teacher."""

    def __init__(self, directory: Path, recorded: RecordedTeacher, *, seconds_per_token: float = 0.0) -> None:
        """`seconds_per_token`: how long to wait for each token that a teacher would read."""
        self._directory = directory
        self._recorded = recorded
        self._identity = recorded.identity
        self._seconds_per_token = seconds_per_token

    @property
    def vocab_size(self) -> int:
        return self._recorded.vocabulary

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def description(self) -> dict[str, str]:
        teacher = self._recorded.teacher
        return {
            "engine": "replay",
            "recording": str(self._directory),
            "recorded_engine": str(teacher["engine"]),
            "dtype": str(teacher["dtype"]),
        }

    def forward(
        self, input_ids: Sequence[NDArray[np.int32]], has_target: Sequence[NDArray[np.bool_]]
    ) -> Iterator[torch.Tensor]:
        """Logits `[p, V]` of the positions with a target, a sequence or a part of one at a time; see Engine.

        Raises NotRecordedError for a sequence that is not in the recording, IntegrityError for a damaged file.
        """
        time.sleep(self._seconds_per_token * sum(map(len, input_ids)))
        for number, (ids, mask) in enumerate(zip(input_ids, has_target, strict=True)):
            if mask.any():
                yield from self._of_sequence(number, ids, mask)

    def has(self, ids: NDArray[np.int32], mask: NDArray[np.bool_]) -> bool:
        """Whether a sequence is recorded, in a file that can be read."""
        path = sequence_file(self._directory, ids, mask)
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                self._check(path, file, int(mask.sum()))
        except (IntegrityError, SafetensorError, OSError):
            return False
        return True

    def _check(self, path: Path, file: Any, n_positions: int) -> None:
        """Raises IntegrityError for a file that holds something else than these logits of this teacher."""
        shape = file.get_slice("logits").get_shape()
        if shape != [n_positions, self.vocab_size]:
            raise IntegrityError(
                f"recording {path}: expected logits of {n_positions} positions and {self.vocab_size} ids, found "
                f"{shape}; delete the file, and record the document again"
            )
        if (file.metadata() or {}).get(TEACHER) != self._identity:
            raise IntegrityError(
                f"recording {path}: expected logits of the teacher of this recording, found those of another one; "
                "delete the file, and record the document again"
            )

    def _of_sequence(self, number: int, ids: NDArray[np.int32], mask: NDArray[np.bool_]) -> Iterator[torch.Tensor]:
        path = sequence_file(self._directory, ids, mask)
        n_positions = int(mask.sum())
        step = chunk_rows(self.vocab_size, self.device)
        try:
            with safe_open(path, framework="pt") as file:
                self._check(path, file, n_positions)
                logits = file.get_slice("logits")
                for begin in range(0, n_positions, step):
                    yield logits[begin : begin + step]
        except FileNotFoundError:
            raise NotRecordedError(
                f"teacher.replay.recording {self._directory}: has no logits of this sequence of {len(ids)} tokens with "
                f"{n_positions} targets; replay with the corpus, tokenizer and tokenization that were recorded, or "
                "record this one too",
                sequence=number,
            ) from None
        except SafetensorError as error:
            raise IntegrityError(
                f"recording {path}: can't be read ({error}); delete the file, and record the document again"
            ) from None


def load_teacher(settings: TeacherSettings, files: TeacherFiles, *, vocab_size: int) -> ReplayEngine:
    """The recording that the settings name. Raises SettingsError if there is none."""
    assert settings.replay is not None
    directory = settings.replay.directory
    return ReplayEngine(directory, read_recording(directory), seconds_per_token=settings.replay.seconds_per_token)
