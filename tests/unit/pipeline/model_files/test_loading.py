"""What is loaded is what the files hold: nothing is made up, nothing is left out."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from logitlake.pipeline.evaluation.evaluate import load_student
from logitlake.pipeline.model_files.loading import load_adapter, load_causal_lm
from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.identity import find_parent
from logitlake.pipeline.students.initial_model import make_student
from logitlake.storage.errors import SettingsError

Weights = dict[str, torch.Tensor]


def _without_output_layer(weights: Weights) -> None:
    del weights["lm_head.weight"]


def _without_a_layer(weights: Weights) -> None:
    for name in [name for name in weights if ".layers.1." in name]:
        del weights[name]


def _with_another_layer(weights: Weights) -> None:
    weights |= {name.replace(".layers.1.", ".layers.2."): tensor.clone() for name, tensor in weights.items()}


def _with_a_head_for_values(weights: Weights) -> None:
    weights["v_head.weight"] = torch.zeros(1, 8)


def _of_another_shape(weights: Weights) -> None:
    weights["model.norm.weight"] = torch.ones(7)


DEFECTS = [
    (_without_output_layer, r"needs 1 weight \(lm_head\.weight\)"),
    (_without_a_layer, r"needs 9 weights .* and 6 more"),
    (_with_another_layer, r"hold 9 weights .*no place for"),
    (_with_a_head_for_values, r"v_head\.weight"),
    (_of_another_shape, "can't load it"),
]


@pytest.fixture
def directory(tmp_path: Path, tiny_model: Callable[..., LlamaForCausalLM]) -> Path:
    tiny_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(file: Path, defect: Callable[[Weights], None]) -> None:
    weights = load_file(file)
    defect(weights)
    save_file(weights, file, {"format": "pt"})


def as_a_student(directory: Path) -> Any:
    settings = StudentSettings(source="checkpoint", model=str(directory))
    parent = find_parent(settings, {"vocabulary": 300}, None)
    return make_student(settings, parent, {"vocabulary": 300}, teacher=None, seed=0)


LOADERS = [lambda directory: load_causal_lm(directory, "teacher", dtype=torch.float32), as_a_student, load_student]


@pytest.mark.parametrize("load", LOADERS, ids=["teacher", "student", "evaluation"])
@pytest.mark.parametrize(("defect", "message"), DEFECTS)
def test_a_model_is_loaded_whole_or_refused(
    directory: Path, load: Callable[[Path], Any], defect: Callable[[Weights], None], message: str
) -> None:
    whole = load(directory).state_dict()
    assert all(torch.equal(whole[name], tensor) for name, tensor in load_file(directory / "model.safetensors").items())
    change(directory / "model.safetensors", defect)
    with pytest.raises(SettingsError, match=message):
        load(directory)


@pytest.fixture
def adapter(tmp_path: Path, tiny_model: Callable[..., LlamaForCausalLM]) -> Path:
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        # PEFT asks transformers by a name that is about to change.
        warnings.simplefilter("ignore")
        get_peft_model(tiny_model(), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_loaded_whole_or_refused(adapter: Path, tiny_model: Callable[..., LlamaForCausalLM]) -> None:
    file = adapter / "adapter_model.safetensors"
    loaded = load_adapter(tiny_model(), adapter, "teacher.adapter").state_dict()
    stored = load_file(file)
    assert all(
        torch.equal(loaded[name.replace(".weight", ".default.weight")], tensor) for name, tensor in stored.items()
    )
    first = min(stored)
    save_file({name: tensor for name, tensor in stored.items() if name != first}, file, {"format": "pt"})
    with pytest.raises(SettingsError, match=r"asks for 1 weight .*lack"):
        load_adapter(tiny_model(), adapter, "teacher.adapter")
    deeper = first.replace(".layers.0.", ".layers.7.")
    save_file({**stored, deeper: stored[first].clone()}, file, {"format": "pt"})
    with pytest.raises(SettingsError, match=r"hold 1 weight .*layers\.7.*no place for"):
        load_adapter(tiny_model(), adapter, "teacher.adapter")


def test_constants_that_older_files_hold_are_no_weights_that_are_left_over(directory: Path) -> None:
    def with_constants(weights: Weights) -> None:
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        weights["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
        weights["transformer.h.0.attn.attention.bias"] = torch.ones(1, 1, 8, 8)

    change(directory / "model.safetensors", with_constants)
    load_causal_lm(directory, "teacher", dtype=torch.float32)
