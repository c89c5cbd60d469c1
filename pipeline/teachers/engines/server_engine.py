"""The engine `server`: a teacher behind an OpenAI-compatible completions endpoint, by log-probs of prompt tokens.

vLLM gives them by `prompt_logprobs`, others by `echo` and `logprobs`; a probe finds out which. Many requests are under
way at once, one for each sequence, and answers are taken in their order.
"""

import logging
import os
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.tokenizer import load_tokenizer
from logitlake.pipeline.settings.models import ServerSettings, TeacherSettings
from logitlake.pipeline.teachers.server.answers import Echo, Form, PromptLogprobs, prompt_of, read_answer
from logitlake.pipeline.teachers.server.same_tokenizer import compare_tokenizers
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
        self._end = weakref.finalize(self, _end, model.transport, self._pool)

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


def _end(transport: Transport, pool: ThreadPoolExecutor) -> None:
    # In this order: a request that starts after the connections are given back would leave one open.
    transport.stop()
    pool.shutdown(wait=True, cancel_futures=True)
    transport.close()


def load_teacher(settings: TeacherSettings, files: TeacherFiles, *, vocab_size: int, window: int) -> ServerEngine:
    """Connect to the server, find the form of its answers, and compare its tokenizer with the local one.

    Raises SettingsError for a server that can't be used, MismatchError for one with another tokenizer,
    TeacherUnavailableError for one that does not answer.
    """
    assert settings.server is not None
    server = settings.server
    model = files.served_as or server.model or settings.model
    tokenizer = load_tokenizer(files.directory, trust_remote_code=settings.trust_remote_code)
    transport = Transport(server, key=_key(server))
    try:
        about = _check_model(transport, model, window)
        # First: the ids of another tokenizer may be none of the server's.
        about["tokenizer"] = compare_tokenizers(transport, model, tokenizer)
        form = find_form(transport, model, tokenizer)
    except BaseException:
        transport.close()
        raise
    served = ServedModel(transport=transport, form=form, name=model, vocab_size=vocab_size)
    return ServerEngine(served, concurrency=server.concurrency, about=about)


def _key(server: ServerSettings) -> str | None:
    if server.api_key_env is None:
        return None
    key = os.environ.get(server.api_key_env, "").strip()
    if not key:
        raise SettingsError(
            f"teacher.server.api_key_env: expected the key of the server in the environment variable "
            f"{server.api_key_env}, which is not set; set it where the capture runs"
        )
    return key


def _check_model(transport: Transport, model: str, window: int) -> dict[str, str]:
    """What the server says of the model. Raises SettingsError if it has no such model, or a shorter one."""
    about = {"url": transport.url, "model": model}
    try:
        listed = transport.get("/models")
    except RefusedError as error:
        if error.status in (401, 403):
            raise
        return about  # some servers list nothing
    entries = listed.get("data") if isinstance(listed, dict) else None
    models = {entry["id"]: entry for entry in entries or [] if isinstance(entry, dict) and "id" in entry}
    if not models:
        return about
    if model not in models:
        names = ", ".join(sorted(map(str, models))[:10])
        raise SettingsError(
            f"teacher.server.model {model}: the server {transport.url} has no such model; it has {names}: set "
            "teacher.server.model to one of them"
        )
    entry: Mapping[str, Any] = models[model]
    longest = entry.get("max_model_len")
    if isinstance(longest, int) and window >= longest:
        raise SettingsError(
            f"tokenization.window {window}: the server {transport.url} takes {longest} tokens, one of which it "
            f"generates; set tokenization.window to at most {longest - 1}, or start the server with a longer one"
        )
    said = {f"server_{name}": str(entry[name]) for name in ("root", "owned_by") if entry.get(name)}
    return {**about, **said}


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
