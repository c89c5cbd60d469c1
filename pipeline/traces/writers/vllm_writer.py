"""Writes with vLLM, in a process and, if need be, an environment of its own.

vLLM draws with a seed for each request, which is a function of (seed, prompt, number of the sample): a sample does not
depend on what is beside it, but for the noise of the logits, and is not the one that transformers would draw.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.targets.counter_random import document_keys
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.teachers.engines.vllm.arguments import model_arguments, refuse_adapter
from logitlake.pipeline.teachers.engines.vllm.process import WRITING, VllmProcess, this_python
from logitlake.pipeline.traces.writer import Completion, Request, Sampling
from logitlake.storage.errors import LogitlakeError

# vLLM takes seeds of a signed 64-bit integer.
_SEED_BITS = 63


class VllmWriter:
    """A Writer (see writer.py) in vLLM's process."""

    def __init__(
        self, python: str, arguments: dict[str, Any], sampling: Sampling, *, vocab_size: int, load_seconds: float
    ) -> None:
        """Start vLLM with `arguments` of vllm.LLM. Raises SettingsError if it can't load the model.

        `vocab_size`: ids of the tokenizer; rows of the output layer beyond are never drawn.
        """
        self._start = partial(VllmProcess, python, arguments, load_seconds=load_seconds, program=WRITING)
        self._sampling = sampling
        self._vocab_size = vocab_size
        self._dtype = str(arguments["dtype"])
        self._process: VllmProcess | None = self._start()
        self._versions = self._process.versions

    @property
    def description(self) -> dict[str, str]:
        """Dtype and library versions, stored with the run."""
        return {"engine": "vllm", "dtype": self._dtype, **self._versions}

    def write(self, requests: Sequence[Request], on_tokens: Callable[[int], None] = lambda n: None) -> list[Completion]:
        """All requests at once: vLLM's scheduler makes the batches.

        Raises TeacherUnavailableError if vLLM fails. The next call starts it again.
        """
        process = self._process = self._process or self._start()
        keys_B2 = document_keys(self._sampling.seed, [f"{r.prompt_id}:{r.number}" for r in requests])
        message = {
            "prompts": [list(request.prompt_ids) for request in requests],
            "seeds": [int(key) >> (64 - _SEED_BITS) for key in keys_B2[:, 0]],
            "sampling": self._parameters(),
        }
        try:
            answers = process.ask(message)["completions"]
        except BaseException:
            process.end()
            self._process = None
            raise
        completions = [self._completion(ids, logprobs) for ids, logprobs in answers]
        on_tokens(sum(len(completion.ids) for completion in completions))
        return completions

    def _parameters(self) -> dict[str, Any]:
        sampling = self._sampling
        return {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or 0,
            "max_tokens": sampling.max_new_tokens,
            "stop_token_ids": list(sampling.stop_ids),
            # The stop tokens of our own list, and no others.
            "ignore_eos": True,
        }

    def _completion(self, ids: list[int], logprobs: list[float]) -> Completion:
        if beyond := [i for i in ids if i >= self._vocab_size]:
            raise LogitlakeError(
                f"writer: vLLM drew the id {beyond[0]}, expected one of the tokenizer's {self._vocab_size:,} ids; the "
                "output layer has rows beyond them: use generate.engine transformers, which never draws these"
            )
        finished = bool(ids) and ids[-1] in self._sampling.stop_ids
        return Completion(ids=tuple(ids), logprobs=tuple(min(p, 0.0) for p in logprobs), finished=finished)


def load_writer(
    settings: TeacherSettings, files: TeacherFiles, sampling: Sampling, *, vocab_size: int, batch_sequences: int
) -> VllmWriter:
    """The model of `files` in vLLM. Raises SettingsError if vLLM can't load it, or if it has an adapter.

    `batch_sequences` is for writers that make their own batches.
    """
    refuse_adapter(files)
    arguments = model_arguments(settings, files, resolve_dtype(settings.dtype, settings.device))
    return VllmWriter(
        settings.vllm.python or this_python(),
        arguments,
        sampling,
        vocab_size=vocab_size,
        load_seconds=60 * settings.vllm.load_minutes,
    )
