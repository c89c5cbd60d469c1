"""The hash of a config follows what the model computes, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from logitlake.pipeline.model_files.config_hash import hash_config

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hash_of(tmp_path: Path) -> Any:
    def of(config: dict[str, Any]) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return hash_config(tmp_path)

    return of


@pytest.mark.parametrize(
    "changed",
    [
        {"rope_theta": 500000.0},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"num_attention_heads": 8},
        {"num_key_value_heads": 2},
        {"rms_norm_eps": 1e-5},
        {"hidden_act": "gelu"},
        {"tie_word_embeddings": True},
        {"attention_bias": True},
        {"model_type": "mistral"},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"a_setting_of_a_later_version": 2},
    ],
    ids=str,
)
def test_what_the_model_computes_changes_the_hash(hash_of: Any, changed: dict[str, Any]) -> None:
    assert hash_of(LLAMA | changed) != hash_of(LLAMA)


@pytest.mark.parametrize(
    "changed",
    [
        {"_name_or_path": "elsewhere"},
        {"transformers_version": "4.30.0"},
        {"torch_dtype": "bfloat16"},
        {"dtype": "bfloat16"},
        {"architectures": ["LlamaForCausalLM"]},
        {"use_cache": False},
        {"attention_dropout": 0.1},
        {"eos_token_id": 7},
        {"initializer_range": 0.5},
        {"rope_scaling": None},
        {"rope_theta": 10000},
        {"hidden_act": "silu"},
    ],
    ids=str,
)
def test_what_it_does_not_compute_leaves_the_hash_as_it_is(hash_of: Any, changed: dict[str, Any]) -> None:
    assert hash_of(LLAMA | changed) == hash_of(LLAMA)


@pytest.mark.parametrize("kind", ["type", "rope_type"])
def test_an_older_spelling_is_the_same_config(hash_of: Any, kind: str) -> None:
    newer = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    assert hash_of(LLAMA | {"rope_scaling": {kind: "linear", "factor": 2}}) == hash_of(
        newer | {"rope_parameters": parameters}
    )


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gemma3", "gpt2", "mpt", "falcon", "qwen3_moe", "gpt_oss"])
def test_a_config_that_is_saved_again_has_the_same_hash(tmp_path: Path, model_type: str) -> None:
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    first = hash_config(tmp_path)
    content = (tmp_path / "config.json").read_text()
    AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert hash_config(tmp_path) == first
    (tmp_path / "config.json").write_text(json.dumps(json.loads(content) | {"transformers_version": "6.0"}))
    assert hash_config(tmp_path) == first


def test_a_config_that_transformers_does_not_know_is_hashed_as_it_is_written(hash_of: Any) -> None:
    unknown = {"model_type": "of-a-plug-in", "depth": 3}
    assert hash_of(unknown) == hash_of(unknown | {"transformers_version": "1"})
    assert hash_of(unknown) != hash_of(unknown | {"depth": 4})


def test_code_of_the_model_counts_where_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "modeling.py").write_text("scale = 1")
    plain, trusted = hash_config(tmp_path), hash_config(tmp_path, trust_remote_code=True)
    (tmp_path / "modeling.py").write_text("scale = 2")
    assert hash_config(tmp_path) == plain
    assert hash_config(tmp_path, trust_remote_code=True) != trusted


def test_the_second_time_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    found = hash_config(tmp_path)
    code = (
        "import sys; from pathlib import Path; from logitlake.pipeline.model_files.config_hash import hash_config; "
        "print(hash_config(Path(sys.argv[1])), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [found, "False"]


def test_a_config_that_could_not_be_read_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that it needs may be missing today and installed tomorrow."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"use_cache": False, "rms_norm_eps": 1e-6}))

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("no such package")

    with monkeypatch.context() as without:
        without.setattr(AutoConfig, "from_pretrained", missing)
        as_written = hash_config(tmp_path)
    found = hash_config(tmp_path)
    assert found != as_written
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert hash_config(tmp_path) == found
