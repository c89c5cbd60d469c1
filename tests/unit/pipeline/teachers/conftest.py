"""A tiny random Llama whose output layer has more rows than the tokenizer has ids."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY, ROWS = 300, 320


def make_model(**settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        pad_token_id=None,
        **settings,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tiny_model() -> Callable[..., LlamaForCausalLM]:
    return make_model


@pytest.fixture
def teacher_directory(tmp_path: Path) -> Path:
    make_model(tie_word_embeddings=True, attention_dropout=0.5).save_pretrained(tmp_path / "teacher")
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
