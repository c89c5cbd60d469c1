"""The transformers engine: any causal language model of the library, from safetensors.

The body runs on right-padded batches; the output layer only on the positions with a target, chunk by chunk. If an
output layer is more than a matrix and a bias (soft-cap, scale, logits processors of a custom class), a probe at load
time detects it, and the engine calls `model(...)` for the logits of all positions.

Shapes: B sequences, L tokens of the longest, D hidden size, P positions with a target, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.loading import load_adapter, load_causal_lm
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.devices import resolve_device
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.teachers.output_layer import OutputLayer, chunk_rows
from logitlake.storage.errors import MismatchError

_PROBE_TOKENS = 8


class TransformersEngine:
    """A causal language model in evaluation mode."""

    def __init__(self, model: Any, *, vocab_size: int) -> None:
        """`model` on its device; `vocab_size` ids of the tokenizer.

        Raises MismatchError if the model has fewer output rows than the tokenizer has ids.
        """
        self._model = model.eval().requires_grad_(False)
        self._body = model.get_decoder()
        self._head = model.get_output_embeddings()
        n_rows = int(model.get_input_embeddings().weight.shape[0])
        if n_rows < vocab_size:
            raise MismatchError(
                f"teacher: expected an embedding of at least {vocab_size} rows, as many as the tokenizer has ids, "
                f"found {n_rows}; model and tokenizer are of two different teachers"
            )
        self._vocab_size = vocab_size
        self._direct = self._head_is_direct()
        self._output = OutputLayer(self._head, vocab_size=vocab_size)

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def description(self) -> dict[str, str]:
        return {
            "engine": "transformers",
            "device": str(self.device),
            "device_name": _device_name(self.device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "attention": str(self._model.config._attn_implementation),
            "output_layer": "direct" if self._direct else "whole forward",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    @torch.inference_mode()
    def forward(
        self, input_ids: Sequence[NDArray[np.int32]], has_target: Sequence[NDArray[np.bool_]]
    ) -> Iterator[torch.Tensor]:
        """Logits `[p, V]` of the positions with a target of a batch, chunk by chunk; see Engine."""
        if not any(mask.any() for mask in has_target):
            return
        if not self._direct:
            yield from self._forward_whole(input_ids, has_target)
            return
        hidden_BLD = self._body(**self._padded(input_ids), use_cache=False).last_hidden_state
        hidden_PD = hidden_BLD.flatten(0, 1)[self._flat_positions(has_target, hidden_BLD.shape[1])]
        del hidden_BLD
        yield from self._output.logits(hidden_PD)

    def _forward_whole(
        self, input_ids: Sequence[NDArray[np.int32]], has_target: Sequence[NDArray[np.bool_]]
    ) -> Iterator[torch.Tensor]:
        """Logits by `model(...)`, with few sequences at a time to bound the memory of the logits."""
        step = max(1, chunk_rows(self._vocab_size, self.device) // max(len(ids) for ids in input_ids))
        for begin in range(0, len(input_ids), step):
            ids, masks = input_ids[begin : begin + step], has_target[begin : begin + step]
            if not any(mask.any() for mask in masks):
                continue
            logits_BLV = self._model(**self._padded(ids), use_cache=False).logits
            positions_P = self._flat_positions(masks, logits_BLV.shape[1])
            yield logits_BLV.flatten(0, 1)[positions_P][:, : self._vocab_size].contiguous()

    def _padded(self, input_ids: Sequence[NDArray[np.int32]]) -> dict[str, torch.Tensor]:
        """Right-padded ids, with a mask only where there is padding: without one, attention is faster."""
        lengths = np.array([len(ids) for ids in input_ids])
        ids_BL = np.zeros((len(input_ids), lengths.max()), np.int64)
        real_BL = np.arange(lengths.max())[None, :] < lengths[:, None]
        ids_BL[real_BL] = np.concatenate(input_ids)
        inputs = {"input_ids": torch.from_numpy(ids_BL).to(self.device)}
        if not real_BL.all():
            inputs["attention_mask"] = torch.from_numpy(real_BL.astype(np.int64)).to(self.device)
        return inputs

    def _flat_positions(self, has_target: Sequence[NDArray[np.bool_]], length: int) -> torch.Tensor:
        positions = [np.flatnonzero(mask) + row * length for row, mask in enumerate(has_target)]
        return torch.from_numpy(np.concatenate(positions)).to(self.device)

    @torch.inference_mode()
    def _head_is_direct(self) -> bool:
        """Whether the output layer gets the body's hidden states and its output is the logits, bit for bit.

        A hook on the output layer compares them in one forward. A tolerance on logits would not detect a soft-cap or a
        scale, which change small logits by less than rounding.
        """
        if self._head is None or self._body is None or self._body is self._model:
            return False
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        hook = self._head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
        ids_1L = torch.arange(_PROBE_TOKENS, device=self.device)[None] % self._vocab_size
        try:
            logits_1LV = self._model(input_ids=ids_1L, use_cache=False).logits
            hidden_1LD = self._body(input_ids=ids_1L, use_cache=False).last_hidden_state
        except (AttributeError, TypeError):
            return False
        finally:
            hook.remove()
        if len(seen) != 1 or seen[0][0].shape != hidden_1LD.shape:
            return False
        head_input_1LD, head_output_1LV = seen[0]
        return torch.allclose(head_input_1LD, hidden_1LD) and torch.equal(head_output_1LV.float(), logits_1LV.float())


def load_teacher(settings: TeacherSettings, files: TeacherFiles, *, vocab_size: int) -> TransformersEngine:
    """The teacher of `files` on its device, without dropout and gradients, without hub code unless trusted by name.

    Raises SettingsError if it can't be loaded, MismatchError if it has fewer rows than the tokenizer.
    """
    device = resolve_device(settings.device)
    dtype = getattr(torch, resolve_dtype(settings.dtype, settings.device))
    model = load_causal_lm(
        files.directory,
        "teacher",
        dtype=dtype,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        attention=settings.attention,
    )
    if files.adapter_directory is not None:
        # Not merged: bfloat16 would round small changes away.
        adapted = load_adapter(model, files.adapter_directory, "teacher.adapter", allow_pickle=settings.allow_pickle)
        model = adapted.get_base_model()
    return TransformersEngine(model.to(device), vocab_size=vocab_size)


def _device_name(device: torch.device) -> str:
    module = getattr(torch, device.type, None)
    name = getattr(module, "get_device_name", None)
    return str(name(device)) if name is not None and device.type != "cpu" else device.type
