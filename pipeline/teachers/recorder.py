"""Records the logits of an engine, for the engine `replay`.

Shapes: p positions of one sequence, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from logitlake.pipeline.model_files.recording import (
    TEACHER,
    RecordedTeacher,
    begin_recording,
    publish,
    sequence_file,
    staged_beside,
)
from logitlake.pipeline.teachers.engine import Engine
from logitlake.pipeline.teachers.engines.replay_engine import ReplayEngine


class Recorder:
    """An engine that runs another one for what is not recorded yet, and gives everything from the recording.

    So a capture uses what it recorded also where two documents share a sequence, and after it was killed.
    """

    def __init__(self, engine: Engine, directory: Path, recorded: RecordedTeacher) -> None:
        """Raises MismatchError if `directory` holds a recording of another teacher."""
        begin_recording(directory, recorded)
        self._identity = recorded.identity
        self._engine = engine
        self._directory = directory
        self._replay = ReplayEngine(directory, recorded)

    @property
    def vocab_size(self) -> int:
        return self._engine.vocab_size

    @property
    def device(self) -> torch.device:
        return self._replay.device

    @property
    def description(self) -> dict[str, str]:
        return {**self._engine.description, "recording": str(self._directory)}

    def forward(
        self, input_ids: Sequence[NDArray[np.int32]], has_target: Sequence[NDArray[np.bool_]]
    ) -> Iterator[torch.Tensor]:
        """As Engine.forward. The logits of one sequence are in memory at once, beside a chunk of the engine's."""
        missing = [
            (ids, mask)
            for ids, mask in zip(input_ids, has_target, strict=True)
            if mask.any() and not self._replay.has(ids, mask)
        ]
        if missing:
            self._record([ids for ids, _ in missing], [mask for _, mask in missing])
        yield from self._replay.forward(input_ids, has_target)

    def _record(self, input_ids: Sequence[NDArray[np.int32]], has_target: Sequence[NDArray[np.bool_]]) -> None:
        """Write a file for each sequence, all of which have targets."""
        chunks = self._engine.forward(input_ids, has_target)
        rest_pV: torch.Tensor | None = None
        for ids, mask in zip(input_ids, has_target, strict=True):
            parts: list[torch.Tensor] = []
            missing = int(mask.sum())
            while missing:
                if rest_pV is None or not len(rest_pV):
                    rest_pV = next(chunks)
                # A copy: the engine may use the chunk's memory again.
                parts.append(rest_pV[:missing].to("cpu", copy=True))
                rest_pV = rest_pV[missing:]
                missing -= len(parts[-1])
            self._write(ids, mask, torch.cat(parts))

    def _write(self, ids: NDArray[np.int32], mask: NDArray[np.bool_], logits_pV: torch.Tensor) -> None:
        path = sequence_file(self._directory, ids, mask)
        path.parent.mkdir(exist_ok=True)
        tensors = {"logits": logits_pV, "input_ids": torch.from_numpy(ids), "has_target": torch.from_numpy(mask)}
        staged = staged_beside(path)
        # Not `save_file`: it lets nobody but this user read the file.
        staged.write_bytes(save(tensors, metadata={TEACHER: self._identity}))
        # Of two whole files the first one stays: its logits may be in committed rows. A damaged one is replaced.
        if path.exists() and not self._replay.has(ids, mask):
            path.unlink(missing_ok=True)
        publish(staged, path)
