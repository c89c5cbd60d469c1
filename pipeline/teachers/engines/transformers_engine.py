"""The transformers engine: any causal language model of the library, from safetensors.

The body runs on right-padded batches; the output layer only on the positions with a target, chunk by chunk. If a
model can't be cut between body and output layer, a probe at load time detects it, and the engine calls `model(...)` for
the logits of all positions.

Shapes: B sequences, L tokens of the longest, D hidden size, P positions with a target, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.loading import load_adapter, load_causal_lm
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.devices import resolve_device, to_device
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.teachers.output_layer import (
    OutputLayer,
    chunk_rows,
    device_of,
    forward_without_body,
    output_layer_of,
)
from logitlake.storage.errors import MismatchError, SettingsError

_PROBE_TOKENS = 8


class TransformersEngine:
    """A causal language model in evaluation mode."""

    def __init__(self, model: Any, *, vocab_size: int) -> None:
        """`model` on its device; `vocab_size` ids of the tokenizer.

        Raises MismatchError if the model has fewer output rows than the tokenizer has ids.
        """
        self._model = model.eval().requires_grad_(False)
        decoder = model.get_decoder()
        self._body: Any = decoder if decoder is not model else getattr(model, "model", None)
        n_rows = int(model.get_input_embeddings().weight.shape[0])
        if n_rows < vocab_size:
            raise MismatchError(
                f"teacher: expected an embedding of at least {vocab_size} rows, as many as the tokenizer has ids, "
                f"found {n_rows}; model and tokenizer are of two different teachers"
            )
        self._vocab_size = vocab_size
        self._output = self._own_output_layer()

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def device(self) -> torch.device:
        head = self._model.get_output_embeddings()
        return self._model.device if head is None else device_of(head)

    @property
    def description(self) -> dict[str, str]:
        return {
            "engine": "transformers",
            "device": str(self.device),
            "device_name": _device_name(self.device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "attention": str(self._model.config._attn_implementation),
            "output_layer": "whole forward" if self._output is None else self._output.description,
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
        if self._output is None:
            yield from self._forward_whole(input_ids, has_target)
            return
        hidden_BLD = self._body(**self._padded(input_ids), use_cache=False).last_hidden_state
        hidden_PD = hidden_BLD.flatten(0, 1)[_flat_positions(has_target, hidden_BLD)]
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
            positions_P = _flat_positions(masks, logits_BLV)
            yield logits_BLV.flatten(0, 1)[positions_P][:, : self._vocab_size].contiguous()

    def _padded(self, input_ids: Sequence[NDArray[np.int32]]) -> dict[str, torch.Tensor]:
        """Right-padded ids, with a mask only where there is padding: without one, attention is faster."""
        lengths = np.array([len(ids) for ids in input_ids])
        ids_BL = np.zeros((len(input_ids), lengths.max()), np.int64)
        real_BL = np.arange(lengths.max())[None, :] < lengths[:, None]
        ids_BL[real_BL] = np.concatenate(input_ids)
        inputs = {"input_ids": to_device(ids_BL, self.device)}
        if not real_BL.all():
            inputs["attention_mask"] = to_device(real_BL.astype(np.int64), self.device)
        return inputs

    @torch.inference_mode()
    def _own_output_layer(self) -> OutputLayer | None:
        """The output layer, if what it makes of the body's hidden states are the model's logits, bit for bit."""
        model = self._model
        if model.get_output_embeddings() is None or self._body is None or self._body is model:
            return None
        ids_1L = torch.arange(_PROBE_TOKENS, device=self.device)[None] % self._vocab_size
        inside: list[torch.Tensor] = []
        hook = self._body.register_forward_hook(lambda _, inputs, output: inside.append(output.last_hidden_state[0]))
        try:
            logits_LV = model(input_ids=ids_1L, use_cache=False).logits[0]
            self._body(input_ids=ids_1L, use_cache=False)
            if len(inside) != 2 or not torch.allclose(*inside):
                return None
            if torch.equal(forward_without_body(model)(inside[0]), logits_LV):
                return output_layer_of(model, vocab_size=self._vocab_size)
        except torch.OutOfMemoryError:
            # Says nothing of the model: the device may have room later.
            raise
        except (AttributeError, TypeError, LookupError, ValueError, RuntimeError, SettingsError):
            pass
        finally:
            hook.remove()
        return None


def _flat_positions(has_target: Sequence[NDArray[np.bool_]], values_BLX: torch.Tensor) -> torch.Tensor:
    """Indices of the positions with a target in the first two dimensions, flattened, on the device of the values."""
    length = values_BLX.shape[1]
    positions = [np.flatnonzero(mask) + row * length for row, mask in enumerate(has_target)]
    return to_device(np.concatenate(positions), values_BLX.device)


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
        placement=_placement(settings),
    )
    if files.adapter_directory is not None:
        # Not merged: bfloat16 would round small changes away.
        adapted = load_adapter(model, files.adapter_directory, "teacher.adapter", allow_pickle=settings.allow_pickle)
        model = adapted.get_base_model()
    if settings.transformers.device_map is None:
        model = model.to(device)
    return TransformersEngine(model, vocab_size=vocab_size)


def _placement(settings: TeacherSettings) -> dict[str, Any]:
    """Arguments of from_pretrained; none for a teacher on one device."""
    section = settings.transformers
    if section.device_map is None:
        return {}
    folder = section.offload_folder
    return {
        "device_map": section.device_map,
        **({"max_memory": section.max_memory} if section.max_memory else {}),
        **({"offload_folder": str(Path(folder).expanduser())} if folder else {}),
    }


def _device_name(device: torch.device) -> str:
    module = getattr(torch, device.type, None)
    name = getattr(module, "get_device_name", None)
    return str(name(device)) if name is not None and device.type != "cpu" else device.type
