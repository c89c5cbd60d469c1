"""The engine `server`: a teacher behind an OpenAI-compatible completions endpoint, by log-probs of prompt tokens.

vLLM gives them by `prompt_logprobs`, others by `echo` and `logprobs`; a probe finds out which. Many requests are under
way at once, one for each sequence, and answers are taken in their order.
"""

import logging
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.server.answers import Echo, Form, PromptLogprobs, prompt_of, read_answer
from logitlake.pipeline.teachers.server.connection import connect, end
from logitlake.pipeline.teachers.server.token_names import TokenNames
from logitlake.pipeline.teachers.server.transport import RefusedError, Transport
from logitlake.pipeline.teachers.top_k_engine import TopLogprobs, WantedLogprobs
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError, SettingsError

log = logging.getLogger(__name__)

_PROBE_TOKENS = 8
# Answers that may wait for the one before them, for each request under way: few, to bound memory.
_AHEAD = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A model on a server, and the form in which it gives log-probs. Threads hold this, and none the engine."""

    transport: Transport
    form: Form
    name: str
    vocab_size: int

    def ask(self, wanted: WantedLogprobs, k: int) -> TopLogprobs:
        """One request. Raises as ServerEngine.top_logprobs does."""
        if not wanted.has_target.any():
            return TopLogprobs(ids=np.zeros((0, k), np.int64), logprobs=np.zeros((0, k)), next_logprobs=np.zeros(0))
        try:
            answer = self.transport.post("/completions", self.form.request(self.name, prompt_of(wanted), k))
        except RefusedError as error:
            if "logprobs" in error.reason:
                raise SettingsError(
                    f"target.k {k}: the teacher's server {self.transport.url} gives no {k} log-probs: {error.reason}; "
                    "lower target.k, or let the server give more (vLLM: --max-logprobs)"
                ) from None
            raise
        return read_answer(self.form, answer, wanted, k=k, vocab_size=self.vocab_size)


class ServerEngine:
    """A teacher on a server; see TopKEngine."""

    def __init__(self, model: ServedModel, *, concurrency: int, about: dict[str, str]) -> None:
        """`about` is what the run records of the server."""
        self._model = model
        self._about = about
        self._ahead = concurrency * _AHEAD
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="teacher-server")
        self._end = weakref.finalize(self, end, model.transport, self._pool)

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    @property
    def description(self) -> dict[str, str]:
        return {"engine": "server", "form": self._model.form.name, **self._about}

    def top_logprobs(self, sequences: Iterable[WantedLogprobs], *, k: int) -> Iterator[TopLogprobs]:
        """One TopLogprobs for each sequence, in order; some requests ahead of what is taken."""
        k = min(k, self.vocab_size)
        waiting = iter(sequences)
        under_way: deque[Future[TopLogprobs]] = deque()
        try:
            for wanted in islice(waiting, self._ahead):
                under_way.append(self._pool.submit(self._model.ask, wanted, k))
            while under_way:
                answer = under_way.popleft().result()
                for wanted in islice(waiting, 1):
                    under_way.append(self._pool.submit(self._model.ask, wanted, k))
                yield answer
        finally:
            for future in under_way:
                future.cancel()

    def close(self) -> None:
        """Let what is under way end, and give the connections back."""
        self._end()


def load_teacher(settings: TeacherSettings, files: TeacherFiles, *, vocab_size: int, window: int) -> ServerEngine:
    """Connect to the server, find the form of its answers, and compare its tokenizer with the local one.

    Raises SettingsError for a server that can't be used, MismatchError for one with another tokenizer,
    TeacherUnavailableError for one that does not answer.
    """
    connection = connect(settings, files)
    try:
        if connection.longest is not None and window >= connection.longest:
            raise SettingsError(
                f"tokenization.window {window}: the server {connection.transport.url} takes {connection.longest} "
                f"tokens, one of which it generates; set tokenization.window to at most {connection.longest - 1}, or "
                "start the server with a longer one"
            )
        form = find_form(connection.transport, connection.model, connection.tokenizer)
    except BaseException:
        connection.transport.close()
        raise
    served = ServedModel(transport=connection.transport, form=form, name=connection.model, vocab_size=vocab_size)
    assert settings.server is not None
    return ServerEngine(served, concurrency=settings.server.concurrency, about=connection.about)


def _forms(tokenizer: TextTokenizer) -> Iterator[Form]:
    """The best first. The names of all tokens are made only if they are needed."""
    yield PromptLogprobs()
    yield Echo(TokenNames(tokenizer))


def find_form(transport: Transport, model: str, tokenizer: TextTokenizer) -> Form:
    """The form in which the server gives the log-probs of prompt tokens, by a probe of each.

    Raises SettingsError for one that gives none.
    """
    ids = [*tokenizer.encode_texts(["Hello, World! 12"])[0], *range(_PROBE_TOKENS)][:_PROBE_TOKENS]
    probe = WantedLogprobs(input_ids=np.array(ids, np.int32), has_target=np.arange(len(ids)) < len(ids) - 1)
    reasons = []
    for form in _forms(tokenizer):
        try:
            answer = transport.post("/completions", form.request(model, prompt_of(probe), 1))
            read_answer(form, answer, probe, k=1, vocab_size=tokenizer.vocab_size)
        except RefusedError as error:
            if error.status in (401, 403, 404):
                raise
            reasons.append(f"{form.name}: {error.status}: {error.reason}")
        except MismatchError as error:
            reasons.append(f"{form.name}: {error}")
        else:
            if isinstance(form, Echo):
                log.warning(
                    "teacher server %s: names tokens by their text alone, which tells %d of %d ids; the others are "
                    "left out of targets, and their mass counts as residual",
                    *(transport.url, form.names.told, tokenizer.vocab_size),
                )
            return form
    raise SettingsError(
        f"teacher server {transport.url}: expected log-probs of prompt tokens, by prompt_logprobs (vLLM) or by echo "
        f"and logprobs, found neither ({'; '.join(reasons)}); serve the teacher by vLLM or SGLang, or choose another "
        "teacher.engine"
    )
