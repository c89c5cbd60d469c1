"""The dtype in which a student is saved."""

from collections import Counter
from math import prod
from typing import Any

import torch
from transformers import AutoConfig

from logitlake.pipeline.model_files.fingerprints import tensor_dtypes
from logitlake.pipeline.model_files.load_errors import LOAD_ERRORS
from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.identity import Parent

# The dtypes that a student may have, by their names in safetensors.
_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def saved_dtype(settings: StudentSettings, parent: Parent) -> torch.dtype:
    """The dtype of the settings; for `auto` that of the parent, float32 where it is not known or is another one.

    The parent's is the one in which transformers loads it: of its config, else of most bytes of its weights.
    """
    if settings.dtype != "auto":
        dtype = getattr(torch, settings.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype
    found = _of_config(settings, parent) or _of_weights(parent)
    return found if found in _FLOATS.values() else torch.float32


def _of_config(settings: StudentSettings, parent: Parent) -> Any:
    source = settings.model if settings.source == "config" else parent.directory
    revision = settings.revision if settings.source == "config" else None
    if source is None:
        return None
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=settings.trust_remote_code)
        return config.dtype or config.get_text_config().dtype
    except LOAD_ERRORS:
        return None


def _of_weights(parent: Parent) -> torch.dtype | None:
    elements: Counter[str] = Counter()
    for dtype, shape in tensor_dtypes(parent.directory) if parent.directory else ():
        if dtype in _FLOATS:
            elements[dtype] += prod(shape)
    return _FLOATS[elements.most_common(1)[0][0]] if elements else None
