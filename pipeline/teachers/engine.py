"""The interface of teacher engines, and the description of an engine that planning reads before a model is loaded.

Loads no torch.

Shapes: n tokens of one sequence, P positions with a target of the batch in row-major order, V ids of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.storage.errors import MismatchError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

# `distribution`: the logits of every id. `top_k`: only the most probable ids, which allow no unbiased targets.
Gives = Literal["distribution", "top_k"]


class Engine(Protocol):
    """A loaded teacher. Same input, same logits up to the noise of the device; nothing is random."""

    @property
    def vocab_size(self) -> int:
        """V: the ids that can have probability. Rows of the output layer beyond are left out of the logits."""

    @property
    def device(self) -> torch.device:
        """Where the logits are."""

    @property
    def description(self) -> dict[str, str]:
        """Device, dtype, attention kernel and library versions, stored with the run."""

    def forward(
        self, input_ids: Sequence[NDArray[np.int32]], has_target: Sequence[NDArray[np.bool_]]
    ) -> Iterator[torch.Tensor]:
        """Logits `[p, V]` of the positions with a target, in chunks whose rows together are the P positions in order.

        `input_ids[i]` and `has_target[i]` have the same length n; position j's logits predict token j + 1. A chunk is
        valid until the next one is requested.
        """


class NotRecordedError(MismatchError):
    """A recording has no logits of a sequence; `sequence` is its number in the arguments of `forward`."""

    def __init__(self, message: str, *, sequence: int) -> None:
        super().__init__(message)
        self.sequence = sequence


@runtime_checkable
class Prefetching(Protocol):
    """An engine of another process, which can begin with a batch before `forward` asks for it."""

    def prefetch(self, batches: Sequence[tuple[Sequence[NDArray[np.int32]], Sequence[NDArray[np.bool_]]]]) -> None:
        """Announce the arguments of the next calls of `forward`, in their order. Batches not asked for are dropped at
        the next announcement."""


class LoadTeacher(Protocol):
    """Loads the teacher of some files onto its device.

    Raises SettingsError if it can't be loaded, MismatchError if it has fewer output rows than the tokenizer has ids.
    """

    def __call__(self, settings: TeacherSettings, files: TeacherFiles, *, vocab_size: int) -> Engine: ...


def _none(settings: TeacherSettings) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineKind:
    """An entry of the registry: what the engine gives, and `load`, the `module:function` that loads it: a
    LoadTeacher, or a LoadTopKTeacher of an engine that gives the top k.

    `load` is text, so that planning knows what an engine gives without importing the library that runs it.
    `options` are those of the engine's own settings that decide its numbers: they are part of the recipe. Where the
    teacher runs, and how fast, is not among them.

    With `takes_window` the loader gets `window` too: the length of the longest sequence. With `is_recorded` it gives
    what was recorded and nothing else, so that it can't be probed.
    """

    gives: Gives
    load: str
    options: Callable[[TeacherSettings], Mapping[str, Any]] = _none
    takes_window: bool = False
    is_recorded: bool = False
