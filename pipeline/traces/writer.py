"""The interface of what runs the model that writes: sampling, requests and completions. Loads no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.settings.models import TeacherSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn: temperature first, then the `top_k` most probable ids, then those of mass `top_p`.

    `stop_ids` end a completion and are its last token. Temperature 0 takes the most probable id.
    """

    temperature: float
    top_k: int | None
    top_p: float
    max_new_tokens: int
    seed: int
    stop_ids: tuple[int, ...]

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "temperature": float(self.temperature),
            "top_k": self.top_k,
            "top_p": float(self.top_p),
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "stop_ids": list(self.stop_ids),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One completion to write: sample `number` of a prompt."""

    prompt_id: str
    number: int
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """Token ids as they were drawn, with the log-probability of each at temperature 1 in nats.

    `finished`: the last id is a stop id; else the completion was cut.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


class LoadWriter(Protocol):
    """Loads the model of some files, ready to write. Raises SettingsError if it can't be loaded."""

    def __call__(
        self,
        settings: TeacherSettings,
        files: TeacherFiles,
        sampling: Sampling,
        *,
        vocab_size: int,
        batch_sequences: int,
    ) -> "Writer": ...


class Writer(Protocol):
    """A loaded model that writes, with its sampling. A request gives the same completion in any batch, up to noise."""

    @property
    def description(self) -> dict[str, str]:
        """Device, dtype and library versions, stored with the run."""

    def write(self, requests: Sequence[Request], on_tokens: Callable[[int], None] = lambda n: None) -> list[Completion]:
        """The completions, in the order of the requests. `on_tokens` is told of tokens as they are written."""
