"""Writes with transformers: its own generation loop keeps the cache and the positions, we draw the tokens.

Shapes: B sequences, L tokens of the longest prompt, V ids of the vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.loading import load_adapter, load_causal_lm
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.devices import resolve_device
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.traces.sampling import draw, sample_keys, uniforms_at
from logitlake.pipeline.traces.writer import Completion, Request, Sampling
from logitlake.storage.errors import MismatchError


class TransformersWriter:
    """A Writer (see writer.py) around a causal language model of transformers."""

    def __init__(self, model: Any, sampling: Sampling, *, vocab_size: int, batch_sequences: int) -> None:
        """`vocab_size`: ids of the tokenizer; rows of the output layer beyond are never drawn."""
        self._model = model.eval()
        self._sampling = sampling
        self._vocab_size = vocab_size
        self._batch_sequences = batch_sequences
        # Nothing of the files may change the distribution: transformers fills in what a config leaves out.
        model.generation_config = self._config()

    @property
    def description(self) -> dict[str, str]:
        """Device, dtype and library versions, stored with the run."""
        return {
            "device": str(self._model.device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def write(self, requests: Sequence[Request], on_tokens: Callable[[int], None] = lambda n: None) -> list[Completion]:
        """Batches of similar length, the longest prompts first."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt_ids))
        written: dict[int, Completion] = {}
        for begin in range(0, len(order), self._batch_sequences):
            indices = order[begin : begin + self._batch_sequences]
            completions = self._write_batch([requests[i] for i in indices])
            written.update(zip(indices, completions, strict=True))
            on_tokens(sum(len(completion.ids) for completion in completions))
        return [written[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _write_batch(self, requests: Sequence[Request]) -> list[Completion]:
        longest = max(len(request.prompt_ids) for request in requests)
        ids_BL = np.full((len(requests), longest), self._sampling.stop_ids[0] if self._sampling.stop_ids else 0)
        mask_BL = np.zeros((len(requests), longest), np.int64)
        for row, request in enumerate(requests):
            # On the left: every row goes on at the same place.
            ids_BL[row, longest - len(request.prompt_ids) :] = request.prompt_ids
            mask_BL[row, longest - len(request.prompt_ids) :] = 1
        keys_B2 = sample_keys(self._sampling.seed, [(request.prompt_id, request.number) for request in requests])
        drawing = _Drawing(keys_B2, self._sampling, self._vocab_size, longest)
        self._model.generate(
            input_ids=torch.from_numpy(ids_BL.astype(np.int64)).to(self._model.device),
            attention_mask=torch.from_numpy(mask_BL).to(self._model.device),
            generation_config=self._config(),
            logits_processor=LogitsProcessorList([drawing]),
        )
        return drawing.completions()

    def _config(self) -> GenerationConfig:
        stop_ids = list(self._sampling.stop_ids)
        return GenerationConfig(
            max_new_tokens=self._sampling.max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=stop_ids or None,
            pad_token_id=stop_ids[0] if stop_ids else 0,
        )


class _Drawing(LogitsProcessor):
    """Draws the next token of each row and leaves it as the only one that the loop can take."""

    def __init__(self, keys_B2: np.ndarray, sampling: Sampling, vocab_size: int, n_prompt: int) -> None:
        self._keys_B2 = keys_B2
        self._sampling = sampling
        self._vocab_size = vocab_size
        self._n_prompt = n_prompt
        self._ids: list[torch.Tensor] = []
        self._logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if scores.shape[1] < self._vocab_size:
            raise MismatchError(
                f"writer: expected an output row for each of the tokenizer's {self._vocab_size:,} ids, found "
                f"{scores.shape[1]:,}; use the tokenizer that the model was trained with"
            )
        position = input_ids.shape[1] - self._n_prompt
        assert position == len(self._ids), "one call for each token"
        ids_B, logprobs_B = draw(scores[:, : self._vocab_size], uniforms_at(self._keys_B2, position), self._sampling)
        self._ids.append(ids_B)
        self._logprobs.append(logprobs_B)
        forced = torch.full_like(scores, -torch.inf)
        return forced.scatter_(1, ids_B[:, None], 0.0)

    def completions(self) -> list[Completion]:
        """Each row up to its first stop id."""
        ids_Bn = torch.stack(self._ids, 1).cpu().numpy()
        logprobs_Bn = torch.stack(self._logprobs, 1).cpu().numpy()
        ends_Bn = np.isin(ids_Bn, self._sampling.stop_ids)
        completions = []
        for ids_n, logprobs_n, ends_n in zip(ids_Bn, logprobs_Bn, ends_Bn, strict=True):
            finished = bool(ends_n.any())
            length = int(ends_n.argmax()) + 1 if finished else len(ids_n)
            completions.append(
                Completion(
                    ids=tuple(ids_n[:length].tolist()),
                    logprobs=tuple(logprobs_n[:length].tolist()),
                    finished=finished,
                )
            )
        return completions


def load_writer(
    settings: TeacherSettings, files: TeacherFiles, sampling: Sampling, *, vocab_size: int, batch_sequences: int
) -> TransformersWriter:
    """The model of `files` on its device, ready to write. Raises SettingsError if it can't be loaded."""
    device = resolve_device(settings.device)
    model = load_causal_lm(
        files.directory,
        "writer",
        dtype=getattr(torch, resolve_dtype(settings.dtype, settings.device)),
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        attention=settings.attention,
    )
    if files.adapter_directory is not None:
        adapted = load_adapter(model, files.adapter_directory, "teacher.adapter", allow_pickle=settings.allow_pickle)
        model = adapted.get_base_model()
    return TransformersWriter(model.to(device), sampling, vocab_size=vocab_size, batch_sequences=batch_sequences)
