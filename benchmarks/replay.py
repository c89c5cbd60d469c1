"""The teacher without its body: last hidden states are stored once, and the output layer runs again for every arm.

All arms then use the same distributions, at a fifth of the cost. Only for a teacher whose output layer is a plain
matrix. Shapes: N tokens of all sequences, D hidden size, P positions with a target, V ids.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from benchmarks.captured import CACHE, teacher_path
from benchmarks.sample import padded_ids
from logitlake.flows.terminal.progress import quiet_transformers
from logitlake.pipeline.capture.planning import make_batches
from logitlake.pipeline.model_files.files import TeacherFiles, resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.students.initial_model import cut_layers
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.pipeline.training.output_layer import ModelParts, take_apart
from logitlake.storage.identity import digest

_BATCH_TOKENS = 4096
_CHUNK_ROWS = 512


class ReplayedTeacher:
    """An engine (pipeline/teachers/engine.py) for the sequences that it was made for, and no others."""

    def __init__(self, hidden_ND: NDArray[Any], begins: dict[bytes, int], weight_VD: torch.Tensor) -> None:
        """`hidden_ND` in the weight's dtype, bfloat16 as uint16; `begins` maps a sequence's bytes to its row."""
        self._hidden_ND = hidden_ND
        self._begins = begins
        self.weight_VD = weight_VD

    @property
    def vocab_size(self) -> int:
        return int(self.weight_VD.shape[0])

    @property
    def device(self) -> torch.device:
        return self.weight_VD.device

    @property
    def description(self) -> dict[str, str]:
        return {"engine": "replayed hidden states"}

    def positions(
        self, input_ids: Sequence[NDArray[np.int32]], has_target: Sequence[NDArray[np.bool_]]
    ) -> NDArray[np.int64]:
        """Indices of the positions with a target among the N stored tokens, int64 [P]."""
        pairs = zip(input_ids, has_target, strict=True)
        indices = [self._begins[_key(ids)] + np.flatnonzero(mask) for ids, mask in pairs]
        return np.concatenate([np.zeros(0, np.int64), *indices])

    def logits(self, positions_P: NDArray[np.int64]) -> torch.Tensor:
        """Logits `[P, V]` of stored tokens by their indices."""
        hidden_PD = torch.from_numpy(self._hidden_ND[positions_P]).view(self.weight_VD.dtype)
        return torch.nn.functional.linear(hidden_PD, self.weight_VD)

    @torch.inference_mode()
    def forward(
        self, input_ids: Sequence[NDArray[np.int32]], has_target: Sequence[NDArray[np.bool_]]
    ) -> Iterator[torch.Tensor]:
        """Logits `[p, V]` of the positions with a target, chunk by chunk."""
        positions_P = self.positions(input_ids, has_target)
        for begin in range(0, len(positions_P), _CHUNK_ROWS):
            yield self.logits(positions_P[begin : begin + _CHUNK_ROWS])


def replayed_teacher(sequences: Sequence[TokenSequence], dtype: str = "auto") -> ReplayedTeacher:
    """The teacher over these sequences; its body runs on the first call, then its hidden states are read from a file.

    The dtype `auto` is bfloat16 where the CPU multiplies it in hardware.
    """
    dtype = resolve_dtype(dtype, "cpu")
    files = resolve_teacher(TeacherSettings(model=str(teacher_path())))
    names = (files.teacher_hash.encode(), dtype.encode())
    path = CACHE / f"hidden-{digest(*names, *(_key(s.input_ids) for s in sequences))[:16]}.npy"
    if not path.exists():
        _store_hidden(files, dtype, sequences, path)
    parts = take_apart(_model(files, dtype, layers=1))
    assert parts.weight is not None, "the output layer of the benchmarks' teacher is a plain matrix"
    lengths = [len(sequence.input_ids) for sequence in sequences]
    begins = {_key(s.input_ids): int(end - n) for s, end, n in zip(sequences, np.cumsum(lengths), lengths, strict=True)}
    return ReplayedTeacher(np.load(path, mmap_mode="r"), begins, parts.weight.detach())


def _store_hidden(files: TeacherFiles, dtype: str, sequences: Sequence[TokenSequence], path: Path) -> None:
    print(f"benchmarks: the teacher over {len(sequences)} sequences, once", file=sys.stderr, flush=True)
    parts = take_apart(_model(files, dtype))
    lengths = np.array([len(sequence.input_ids) for sequence in sequences])
    begins = np.cumsum(lengths) - lengths
    stored_ND: NDArray[Any] | None = None
    for indices in make_batches(lengths.tolist(), _BATCH_TOKENS):
        hidden_BLD = _hidden(parts, [sequences[i] for i in indices])
        if hidden_BLD.dtype == torch.bfloat16:
            hidden_BLD = hidden_BLD.view(torch.uint16)
        if stored_ND is None:
            stored_ND = np.empty((int(lengths.sum()), hidden_BLD.shape[2]), hidden_BLD.numpy().dtype)
        for row, i in enumerate(indices):
            stored_ND[begins[i] : begins[i] + lengths[i]] = hidden_BLD[row, : lengths[i]].numpy()
    staged = path.with_suffix(".tmp")
    with staged.open("wb") as file:
        np.save(file, stored_ND)
    staged.rename(path)


@torch.inference_mode()
def _hidden(parts: ModelParts, sequences: Sequence[TokenSequence]) -> torch.Tensor:
    """Hidden states [B, L, D]."""
    return parts.hidden(padded_ids(sequences)).contiguous()


def _model(files: TeacherFiles, dtype: str, layers: int | None = None) -> torch.nn.Module:
    quiet_transformers()
    loaded = AutoModelForCausalLM.from_pretrained(files.directory, dtype=getattr(torch, dtype), use_safetensors=True)
    model = loaded.eval()
    return model if layers is None else cut_layers(model, layers)


def _key(ids: NDArray[np.int32]) -> bytes:
    return np.ascontiguousarray(ids, np.int32).tobytes()
