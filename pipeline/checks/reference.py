"""Plain transformers: the tokenizer and the model as `from_pretrained` gives them, without code of this project.

Shapes: n tokens of one sequence, p of its positions with a target, V ids of the vocabulary.
"""

import warnings
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.load_errors import LOAD_ERRORS
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.devices import resolve_device
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.tokens.sequences import TokenSequence


class NoReferenceError(Exception):
    """transformers can't load the tokenizer or the model; the message is its own."""


def reference_tokenizer(settings: TeacherSettings, files: TeacherFiles) -> Any:
    """AutoTokenizer of the teacher's directory. Raises NoReferenceError."""
    try:
        # The tokenizer.json counts, whether or not mistral-common is installed.
        return AutoTokenizer.from_pretrained(
            str(files.directory), trust_remote_code=settings.trust_remote_code, mistral_format=False
        )
    except LOAD_ERRORS as error:
        raise NoReferenceError(f"AutoTokenizer can't load {files.directory}: {error}") from None


def reference_logprobs(
    settings: TeacherSettings, files: TeacherFiles, groups: Iterable[Sequence[TokenSequence]], *, vocab_size: int
) -> Generator[list[torch.Tensor], None, None]:
    """Log-probabilities float64[p, V] of each sequence, computed alone: `model(input_ids).logits`, on the CPU.

    One list for each group of sequences, made when it is asked for. Device, dtype and attention kernel are those of the
    settings. The model is loaded with the first group and released after the last one. Raises NoReferenceError.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(files.directory),
            dtype=getattr(torch, resolve_dtype(settings.dtype, settings.device)),
            attn_implementation=settings.attention,
            trust_remote_code=settings.trust_remote_code,
            use_safetensors=None if settings.allow_pickle else True,
        )
        if files.adapter_directory is not None:
            with warnings.catch_warnings():
                # PEFT asks transformers by a name that is about to change.
                warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
                model = PeftModel.from_pretrained(model, str(files.adapter_directory))
    except LOAD_ERRORS as error:
        raise NoReferenceError(f"AutoModelForCausalLM can't load {files.directory}: {error}") from None
    model = model.eval().to(resolve_device(settings.device))
    for sequences in groups:
        yield [_logprobs(model, sequence, vocab_size) for sequence in sequences]


@torch.inference_mode()
def _logprobs(model: Any, sequence: TokenSequence, vocab_size: int) -> torch.Tensor:
    ids_1n = torch.from_numpy(sequence.input_ids.astype(np.int64))[None].to(model.device)
    positions_p = torch.from_numpy(np.flatnonzero(sequence.has_target)).to(model.device)
    logits_pV = model(input_ids=ids_1n).logits[0, positions_p, :vocab_size]
    return logits_pV.cpu().double().log_softmax(-1)
