"""The vLLM engine: unbiased targets from a teacher that vLLM runs.

vLLM gives the final hidden states of every prompt token; the teacher's output layer, applied here, makes the whole
distribution of them. Shapes: P positions with a target of a batch, D hidden size, V vocabulary.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.output_matrix import load_output_matrix
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.devices import resolve_device
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.teachers.engines.vllm.arguments import hidden_state_arguments, refuse_adapter
from logitlake.pipeline.teachers.engines.vllm.process import VllmProcess, this_python
from logitlake.pipeline.teachers.output_layer import OutputLayer, output_layer_of
from logitlake.storage.errors import MismatchError

Batch = tuple[Sequence[NDArray[np.int32]], Sequence[NDArray[np.bool_]]]


class VllmEngine:
    """A teacher in vLLM's process, and its output layer in this one."""

    def __init__(
        self, python: str, arguments: dict[str, Any], output: OutputLayer, *, vocab_size: int, load_seconds: float
    ) -> None:
        """Start vLLM with `arguments` of vllm.LLM. Raises SettingsError if it can't load the model."""
        self._start = partial(VllmProcess, python, arguments, load_seconds=load_seconds)
        self._output = output
        self._vocab_size = vocab_size
        self._dtype = str(arguments["dtype"])
        self._process: VllmProcess | None = self._start()
        self._versions = self._process.versions
        self._number = 0
        # Batches that were sent and not asked for yet.
        self._sent: deque[tuple[int, Batch]] = deque()

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def device(self) -> torch.device:
        return self._output.device

    @property
    def description(self) -> dict[str, str]:
        return {
            "engine": "vllm",
            "device": str(self.device),
            "device_name": self._versions["platform"],
            "dtype": self._dtype,
            "output_layer": self._output.description,
            "torch": torch.__version__,
            **{name: self._versions[name] for name in ("vllm", "torch_of_vllm")},
        }

    def prefetch(self, batches: Sequence[Batch]) -> None:
        """Send the batches that `forward` will be asked for, in their order; see Prefetching."""
        with self._ended_on_error():
            process = self._running()
            if self._sent:
                process.forget()
                self._sent.clear()
            for batch in batches:
                if any(mask.any() for mask in batch[1]):
                    self._send(process, batch)

    @torch.inference_mode()
    def forward(
        self, input_ids: Sequence[NDArray[np.int32]], has_target: Sequence[NDArray[np.bool_]]
    ) -> Iterator[torch.Tensor]:
        """Logits `[p, V]` of the positions with a target of a batch, chunk by chunk; see Engine.

        Raises TeacherUnavailableError if vLLM fails. The next call starts it again.
        """
        if not any(mask.any() for mask in has_target):
            return
        if self._process is None or not self._sent or not _same(self._sent[0][1], (input_ids, has_target)):
            self.prefetch([(input_ids, has_target)])
        number, _ = self._sent.popleft()
        yield from self._output.logits(self._hidden(self._running(), number))

    def _hidden(self, process: VllmProcess, number: int) -> torch.Tensor:
        """Hidden states `[P, D]` of a batch on the device of the output layer."""
        with self._ended_on_error():
            answered, shape, content = process.receive()
            while answered < number:  # an answer to a batch that was forgotten
                answered, shape, content = process.receive()
        assert answered == number, f"vLLM answered batch {answered}, expected {number}"
        hidden_PD = torch.frombuffer(content, dtype=getattr(torch, self._dtype)).view(shape)
        return hidden_PD.to(self.device, non_blocking=True)

    @contextmanager
    def _ended_on_error(self) -> Iterator[None]:
        """After an error the process is ended: what it would say next is the answer to something else."""
        try:
            yield
        except BaseException:
            if self._process is not None:
                self._process.end()
            self._process = None
            self._sent.clear()
            raise

    def _running(self) -> VllmProcess:
        if self._process is None:
            self._process = self._start()
            self._sent.clear()
        return self._process

    def _send(self, process: VllmProcess, batch: Batch) -> None:
        self._number += 1
        process.send(self._number, list(batch[0]), list(batch[1]))
        self._sent.append((self._number, batch))


def _same(announced: Batch, asked: Batch) -> bool:
    return all(
        len(first) == len(second) and all(np.array_equal(one, two) for one, two in zip(first, second, strict=True))
        for first, second in zip(announced, asked, strict=True)
    )


def load_teacher(settings: TeacherSettings, files: TeacherFiles, *, vocab_size: int, window: int) -> VllmEngine:
    """The teacher of `files` in vLLM, for sequences of up to `window` tokens.

    Raises SettingsError if vLLM can't load it or it has an adapter, MismatchError if it has fewer rows than the
    tokenizer.
    """
    refuse_adapter(files)
    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, settings.device)
    model = load_output_matrix(
        files.directory,
        dtype=getattr(torch, dtype),
        device=device,
        trust_remote_code=settings.trust_remote_code,
        overrides=settings.vllm.options.get("hf_overrides"),
    )
    n_rows = int(model.get_output_embeddings().weight.shape[0])
    if n_rows < vocab_size:
        raise MismatchError(
            f"teacher: expected an output matrix of at least {vocab_size} rows, as many as the tokenizer has ids, "
            f"found {n_rows}; model and tokenizer are of two different teachers"
        )
    return VllmEngine(
        settings.vllm.python or this_python(),
        hidden_state_arguments(settings, files, dtype, window=window),
        output_layer_of(model, vocab_size=vocab_size),
        vocab_size=vocab_size,
        load_seconds=60 * settings.vllm.load_minutes,
    )
