"""The environment that `make vllm` makes, and tiny teachers that vLLM's attention on a CPU can compute."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny_models import TINY_VOCAB, write_tiny_tokenizer

PYTHON = Path(".venv-vllm/bin/python").absolute()
# Few threads, little memory, no compiler, and none of them bound to a processor.
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
OPTIONS: dict[str, Any] = {"enforce_eager": True}
NEEDS_VLLM = pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed: run `make vllm`")
_SIZES: dict[str, Any] = {
    "vocab_size": TINY_VOCAB,
    "hidden_size": 128,
    "intermediate_size": 128,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
    # Large enough for logits that differ.
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def write_teacher(directory: Path, model_type: str = "llama", **changes: Any) -> Path:
    """A random teacher of an architecture, with the tiny tokenizer."""
    known = AutoConfig.for_model(model_type).to_dict()
    sizes = {name: value for name, value in _SIZES.items() if name in known}
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **sizes | changes)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    write_tiny_tokenizer(directory)
    return directory
