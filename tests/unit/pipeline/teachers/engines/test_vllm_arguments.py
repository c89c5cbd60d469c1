"""What vLLM is told; vLLM itself is asked in tests/vllm."""

from pathlib import Path

import pytest

from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.engines.vllm.arguments import hidden_state_arguments
from logitlake.pipeline.teachers.registry import engine_kind
from logitlake.storage.errors import SettingsError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))


def settings_of(directory: Path, **options: object) -> TeacherSettings:
    return TeacherSettings.model_validate({"model": str(directory), "vllm": {"options": options}})


def test_vllm_is_told_the_window_and_to_load_the_files_that_were_hashed(teacher_directory: Path) -> None:
    settings = settings_of(teacher_directory, tensor_parallel_size=2, hf_overrides={"rope_theta": 5.0})
    arguments = hidden_state_arguments(settings, resolve_teacher(settings), "bfloat16", window=64)
    assert (arguments["max_model_len"], arguments["load_format"]) == (64, "safetensors")
    assert arguments["tensor_parallel_size"] == 2
    assert arguments["hf_overrides"] == {"head_dtype": "model", "rope_theta": 5.0}


@pytest.mark.parametrize("name", ["consolidated.safetensors", "zz.safetensors"])
def test_weights_that_were_not_hashed_are_refused_beside_those_that_were(teacher_directory: Path, name: str) -> None:
    settings = settings_of(teacher_directory)
    files = resolve_teacher(settings)
    (teacher_directory / name).write_bytes((teacher_directory / "model.safetensors").read_bytes())
    with pytest.raises(SettingsError, match=f"vLLM would load {name} beside model.safetensors"):
        hidden_state_arguments(settings, files, "bfloat16", window=64)


def test_options_that_decide_the_numbers_are_in_the_recipe_and_placement_is_not() -> None:
    options = {"quantization": "fp8", "tensor_parallel_size": 4, "gpu_memory_utilization": 0.5, "kv_cache_dtype": "fp8"}
    in_recipe = engine_kind("vllm").options(settings_of(Path("m"), **options))
    assert in_recipe == {"kv_cache_dtype": "fp8", "quantization": "fp8"}
