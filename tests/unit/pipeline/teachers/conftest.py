"""A directory of a tiny teacher, and a batch for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaForCausalLM

VOCABULARY = 300


@pytest.fixture
def teacher_directory(tmp_path: Path, tiny_model: Callable[..., LlamaForCausalLM]) -> Path:
    tiny_model(tie_word_embeddings=True, attention_dropout=0.5).save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def batch() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Sequences of different lengths, and the positions that are wanted of them."""
    rng = np.random.default_rng(0)
    lengths = [40, 7, 23, 1]
    ids = [rng.integers(0, VOCABULARY, n).astype(np.int32) for n in lengths]
    wanted = [rng.random(n) < 0.6 for n in lengths]
    wanted[-1][:] = False
    return ids, wanted
