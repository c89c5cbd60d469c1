"""Switches off what makes matrix products of float32 less exact than float32: TF32 on a GPU, bfloat16 on a CPU.

A container may allow TF32 by an environment variable, without a word in the settings.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Exact float32 inside, as torch allows it; afterwards the settings are those of before."""
    backends: Any = torch.backends
    places: tuple[Any, ...]
    exact: Any
    name, exact = "fp32_precision", "ieee"
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        # Since torch 2.9. The older names raise where a program has set the newer ones.
        places = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
    else:
        places = (backends.cuda.matmul, backends.cudnn)
        name, exact = "allow_tf32", False
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, exact)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)
