"""Settings that would do nothing, or could do nothing good, are refused before anything is paid for."""

from pathlib import Path

import pytest

from logitlake.pipeline.settings.loading import load_config
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import documented_yaml
from logitlake.storage.errors import SettingsError


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"target": {"sparsifier": "random", "levels": 64}}, "as many `levels` as `draws`"),
        ({"target": {"threshold": 1e-7}}, "threshold"),
        ({"target": {"logprob_steps_per_nat": 31}}, "greater than or equal to 32"),
        ({"target": {"logprob_steps_per_nat": 1025}}, "less than or equal to 1024"),
        ({"student": {"source": "checkpoint", "model": "x", "layers": 3}}, "leave out `layers`"),
        ({"student": {"source": "teacher", "model": "x", "layers": 3}}, "leave out `model`"),
        ({"student": {"source": "checkpoint"}}, "needs `model`"),
        ({"student": {"source": "teacher"}}, "needs `layers`"),
        ({"training": {"step_tokens": 4096, "batch_sequences": 8}}, "step_tokens, or batch_sequences"),
        ({"training": {"packing": True}}, "packing needs step_tokens"),
        ({"training": {"step_tokens": 4096, "gradient_accumulation": 2}}, "step_tokens, or batch_sequences"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(sections, message):
    with pytest.raises(ValueError, match=message):
        Config(**sections)


def test_an_override_of_the_sparsifier_removes_the_settings_of_the_former_one(tmp_path):
    path = tmp_path / "logitlake.yaml"
    path.write_text("target: {threshold: 0.1, levels: 16}\n")
    target = load_config(path, ["target.sparsifier=top_k", "target.k=7"]).target
    assert (target.sparsifier, target.k, target.levels) == ("top_k", 7, 16)
    assert load_config(path, ["target.sparsifier=varopt"]).target.threshold == 0.1
    with pytest.raises(SettingsError, match="a setting of sparsifier random"):
        load_config(path, ["target.draws=3"])


def test_a_mapping_survives_the_documented_file_and_one_entry_can_be_set(tmp_path: Path) -> None:
    options = {"tensor_parallel_size": 2, "quantization": "fp8", "hf_overrides": {"rope": [1.5, None]}}
    teacher = {"model": "m", "engine": "vllm", "vllm": {"options": options}}
    path = tmp_path / "logitlake.yaml"
    path.write_text(documented_yaml(Config.model_validate({"teacher": teacher})), encoding="utf-8")
    assert load_config(path).teacher.vllm.options == options
    changed = load_config(path, ["teacher.vllm.options.tensor_parallel_size=4"])
    assert changed.teacher.vllm.options == options | {"tensor_parallel_size": 4}


@pytest.mark.parametrize(
    "name", ["model", "dtype", "enable_prefix_caching", "load_format", "max_model_len", "hf_token"]
)
def test_what_logitlake_sets_is_refused_among_the_options_of_vllm(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is set by logitlake"):
        Config.model_validate({"teacher": {"model": "m", "vllm": {"options": {name: 1}}}})


def test_further_targets_survive_the_documented_file_and_only_the_first_may_ask_for_a_size(tmp_path: Path) -> None:
    targets = [{"sparsifier": "top_k", "k": 7}, {"threshold": 0.2, "temperature": 2.0}]
    config = Config.model_validate({"targets": targets})
    path = tmp_path / "logitlake.yaml"
    path.write_text(documented_yaml(config), encoding="utf-8")
    assert load_config(path) == config
    with pytest.raises(ValueError, match="target_bytes is for `target` only"):
        Config.model_validate({"targets": [{"target_bytes": 10}]})
