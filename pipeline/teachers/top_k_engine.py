"""The interface of engines that give only the most probable ids of a position, such as a teacher behind a server.

Loads no torch.

Shapes: n tokens of one sequence, p positions of it with a target, k ids of each.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.settings.models import TeacherSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class TopLogprobs:
    """What a teacher gives of p positions, in nats at temperature 1.

    `ids` int64[p, k] and `logprobs` float64[p, k]: the most probable ids, descending; -inf where there are fewer.
    `next_logprobs` float64[p]: of the real next token, exact also where it is not among them.
    """

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    next_logprobs: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedLogprobs:
    """A sequence and the positions whose next-token log-probs are asked for: both of length n."""

    input_ids: NDArray[np.int32]
    has_target: NDArray[np.bool_]


@runtime_checkable
class TopKEngine(Protocol):
    """A teacher that gives the k most probable ids. Same input, same log-probs up to the noise of its device."""

    @property
    def vocab_size(self) -> int:
        """V: the ids of the tokenizer. Others are left out."""

    @property
    def description(self) -> dict[str, str]:
        """What runs the teacher, and what it says of itself; stored with the run."""

    def top_logprobs(self, sequences: Iterable[WantedLogprobs], *, k: int) -> Iterator[TopLogprobs]:
        """One TopLogprobs for each sequence, in order. May work ahead by some sequences.

        Raises SettingsError if the teacher gives no k ids, TeacherUnavailableError if it does not answer.
        """


class LoadTopKTeacher(Protocol):
    """Connects to the teacher, and finds out what it gives.

    Raises SettingsError if it can't be used, MismatchError if it is another teacher than `files` say.
    """

    def __call__(
        self, settings: TeacherSettings, files: TeacherFiles, *, vocab_size: int, window: int
    ) -> TopKEngine: ...
