"""Writes by an OpenAI-compatible server that tells the token ids that it drew: one request for each completion.

Each request has a seed, which is a function of (seed, prompt, number of the sample). What the server's own settings
would decide is asked for by name, so that only ours hold.
"""

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.targets.counter_random import document_keys
from logitlake.pipeline.teachers.server.completions import Drawn, read_drawn
from logitlake.pipeline.teachers.server.connection import Connection, connect, end
from logitlake.pipeline.teachers.server.transport import RefusedError
from logitlake.pipeline.traces.writer import Completion, Request, Sampling
from logitlake.storage.errors import MismatchError, SettingsError

# Servers take seeds of a signed 64-bit integer.
_SEED_BITS = 63
_PROBE_TOKENS = 8
# Nats by which two answers to one prompt may differ: the server's batches may not be the same.
_NOISE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class _Served:
    """A model on a server, and how it samples. Threads hold this, and none the writer."""

    connection: Connection
    sampling: Sampling
    vocab_size: int

    def write(self, request: Request, seed: int) -> Completion:
        """One completion. Raises MismatchError for an answer that can't be one."""
        transport = self.connection.transport
        body = request_body(self.connection.model, request.prompt_ids, self.sampling, seed=seed)
        drawn = read_drawn(transport.post("/completions", body))
        ids, stops = drawn.ids, self.sampling.stop_ids
        if any(i >= self.vocab_size for i in ids):
            raise MismatchError(
                f"writer: the server {transport.url} drew the id {max(ids)}, expected one of the tokenizer's "
                f"{self.vocab_size:,} ids; the output layer has rows beyond them: use generate.engine transformers, "
                "which never draws these"
            )
        finished = ids[-1] in stops
        if any(i in stops for i in ids[:-1]) or not (finished or len(ids) == self.sampling.max_new_tokens):
            raise MismatchError(
                f"writer: the server {transport.url}: expected a completion that ends with one of the stop tokens "
                f"{list(stops)} or after {self.sampling.max_new_tokens} tokens, found {len(ids)} tokens that end with "
                f"{ids[-1]}; it does not follow stop_token_ids and ignore_eos: use generate.engine vllm or transformers"
            )
        return Completion(ids=ids, logprobs=drawn.logprobs, finished=finished)


def request_body(model: str, prompt: Sequence[int], sampling: Sampling, *, seed: int) -> dict[str, Any]:
    """The body of a request to `/completions`."""
    return {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": sampling.max_new_tokens,
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "top_k": sampling.top_k or 0,
        "seed": seed,
        "logprobs": 1,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stop_token_ids": list(sampling.stop_ids),
        # The stop tokens of our own list, and no others.
        "ignore_eos": True,
        "skip_special_tokens": False,
        # A server takes defaults of the model's generation_config.json.
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_p": 0.0,
    }


class ServerWriter:
    """A Writer (see writer.py) behind an endpoint."""

    def __init__(self, served: _Served, *, concurrency: int) -> None:
        self._served = served
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="writer-server")
        self._end = weakref.finalize(self, end, served.connection.transport, self._pool)

    @property
    def description(self) -> dict[str, str]:
        """What the server says of itself, stored with the run."""
        return {"engine": "server", **self._served.connection.about}

    def write(self, requests: Sequence[Request], on_tokens: Callable[[int], None] = lambda n: None) -> list[Completion]:
        """As many at once as `teacher.server.concurrency` says.

        Raises TeacherUnavailableError if the server does not answer; see Transport.
        """
        keys_B2 = document_keys(self._served.sampling.seed, [f"{r.prompt_id}:{r.number}" for r in requests])
        seeds = [int(key) >> (64 - _SEED_BITS) for key in keys_B2[:, 0]]
        futures = [self._pool.submit(self._served.write, *pair) for pair in zip(requests, seeds, strict=True)]
        try:
            for future in as_completed(futures):
                on_tokens(len(future.result().ids))
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Let what is under way end, and give the connections back."""
        self._end()


def load_writer(
    settings: TeacherSettings, files: TeacherFiles, sampling: Sampling, *, vocab_size: int, batch_sequences: int
) -> ServerWriter:
    """Connect to the server of `teacher.server`, and find out whether it tells ids and log-probs as needed.

    Raises SettingsError for a server that can't be used, MismatchError for one with another tokenizer,
    TeacherUnavailableError for one that does not answer. `batch_sequences` is for writers that make their own batches.
    """
    assert settings.server is not None
    connection = connect(settings, files)
    try:
        if connection.longest is not None and sampling.max_new_tokens >= connection.longest:
            raise SettingsError(
                f"generate.max_new_tokens {sampling.max_new_tokens}: the server {connection.transport.url} takes "
                f"{connection.longest} tokens, prompt included; lower it, or start the server with a longer one"
            )
        _check_answers(connection)
    except BaseException:
        connection.transport.close()
        raise
    served = _Served(connection=connection, sampling=sampling, vocab_size=vocab_size)
    return ServerWriter(served, concurrency=settings.server.concurrency)


def _check_answers(connection: Connection) -> None:
    """Raises SettingsError unless the server tells the drawn ids, with log-probs at temperature 1 over all ids.

    The likeliest token is asked for in two ways: as the only one that may be drawn at a low temperature, and among the
    log-probs of a plain draw.
    """
    plain = Sampling(temperature=1.0, top_k=None, top_p=1.0, max_new_tokens=1, seed=0, stop_ids=())
    cold = Sampling(temperature=0.5, top_k=1, top_p=1.0, max_new_tokens=1, seed=0, stop_ids=())
    prompt = connection.tokenizer.encode_texts(["Hello, World! 12"])[0][:_PROBE_TOKENS] or [0]
    answers: list[Drawn] = []
    for sampling in (plain, cold):
        try:
            body = request_body(connection.model, prompt, sampling, seed=0)
            answers.append(read_drawn(connection.transport.post("/completions", body)))
        except RefusedError as error:
            if error.status in (401, 403, 404):
                raise
            raise _unfit(connection, f"{error.status}: {error.reason}") from None
        except MismatchError as error:
            raise _unfit(connection, str(error)) from None
    most, drawn = answers[0].highest[0], answers[1].logprobs[0]
    if abs(most - drawn) > _NOISE:
        raise SettingsError(
            f"generate.engine server: the server {connection.transport.url} gives the likeliest token a log-prob of "
            f"{drawn:.4g} where only it may be drawn, and {most:.4g} otherwise; expected log-probs before temperature "
            "and top_k, and a server that follows top_k: with vLLM, start it with --logprobs-mode raw_logprobs"
        )


def _unfit(connection: Connection, reason: str) -> SettingsError:
    return SettingsError(
        f"generate.engine server: the server {connection.transport.url} must tell the ids of the tokens that it drew, "
        f"and their log-probs ({reason}): without ids a completion would have to be tokenised again; serve the writer "
        "by vLLM, or use generate.engine vllm or transformers"
    )
