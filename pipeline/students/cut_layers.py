"""Cuts decoder layers out of a model, so that the cut model is the one that its saved config describes.

Some models choose by a layer's number, or by the number of layers, what the layer computes: its kind of attention, a
scale, whether it has RoPE. A cut changes the numbers. So the cut model is made anew from the config as it is read again
from disk, and takes over the weights: what is trained is what is loaded later.
"""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

from logitlake.pipeline.model_files.load_errors import LOAD_ERRORS
from logitlake.pipeline.students.preflight import check_layers
from logitlake.storage.errors import SettingsError

# Settings with a value for each layer or the numbers of some layers, by what is in their names; how many layers at the
# beginning or at the end are of another kind.
_ABOUT_LAYERS = re.compile(r"layer|_types$|_pattern$")
_FIRST_LAYERS = ("first_k_dense_replace", "num_dense_layers", "max_window_layers")
_LAST_LAYERS = ("num_kv_shared_layers",)


def kept_layers(total: int, n_layers: int) -> list[int]:
    """Indices of the layers to keep: evenly spaced, with the first and the last (for one layer the first)."""
    check_layers(total, n_layers)
    if n_layers == 1:
        return [0]
    return [round(index * (total - 1) / (n_layers - 1)) for index in range(n_layers)]


def cut_layers(model: Any, n_layers: int) -> Any:
    """A model with `n_layers` of a model's decoder layers and a config that matches; it takes over the weights.

    Raises SettingsError if the layers are not one list, or if no config describes the model that is left.
    """
    total = model.config.get_text_config().num_hidden_layers
    indices = kept_layers(total, n_layers)
    name = _list_of_layers(model, total)
    layers = model.get_submodule(name)
    model.set_submodule(name, torch.nn.ModuleList(layers[index] for index in indices))
    return _as_described(model, total, indices)


def _list_of_layers(model: Any, total: int) -> str:
    """The name of the list of layers: in the decoder if that has one, else anywhere in the model."""
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == total
    ]
    decoder = model.get_decoder()
    of_decoder = [name for name in lists if any(model.get_submodule(name) is child for child in decoder.children())]
    found = of_decoder or [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(found) != 1:
        raise SettingsError(
            f"{type(model).__name__}: expected one list of {total} layers in its decoder, found {len(found)}; "
            "make the student yourself and use student.source checkpoint"
        )
    return found[0]


def cut_value(name: str, value: Any, total: int, indices: list[int]) -> Any:
    """A setting of the config for the layers that are left; None for one that says nothing of single layers."""
    if isinstance(value, list) and _ABOUT_LAYERS.search(name):
        if _are_numbers(value, total):
            return [new for new, old in enumerate(indices) if old in value]
        return [value[index] for index in indices] if len(value) == total else None
    if isinstance(value, dict) and _ABOUT_LAYERS.search(name) and _are_numbers([_number(key) for key in value], total):
        numbers = {_number(key): (type(key), item) for key, item in value.items()}
        return {numbers[old][0](new): numbers[old][1] for new, old in enumerate(indices) if old in numbers}
    if name in _FIRST_LAYERS and type(value) is int:
        return sum(old < value for old in indices)
    if name in _LAST_LAYERS and type(value) is int:
        return sum(old >= total - value for old in indices)
    return None


def _are_numbers(values: list[Any], total: int) -> bool:
    """Whether these are numbers of layers, such as those with experts, and not a value for each layer."""
    return all(type(v) is int and 0 <= v < total for v in values) and values == sorted(set(values))


def _number(key: Any) -> Any:
    """The number of a layer as the key of a mapping, which JSON makes a text."""
    return int(key) if isinstance(key, str) and key.isdecimal() else key


def _as_described(model: Any, total: int, indices: list[int]) -> Any:
    """The model that the config of a cut model describes once it is read from disk, with the cut model's weights."""
    kind = type(model)
    try:
        config = _read_again(model.config, total, indices)
        config._name_or_path, config.dtype = model.config._name_or_path, model.dtype
        with torch.device("meta"):
            expected = kind(config).state_dict()
        _check_same_tensors(kind.__name__, len(indices), expected, model.state_dict())
        with torch.random.fork_rng(devices=[]):
            described = kind._from_config(config, dtype=model.dtype)
    except LOAD_ERRORS as error:
        raise SettingsError(
            f"student.layers: {kind.__name__} can't be made with {len(indices)} layers of this teacher: {error}; set "
            "another number of layers, or make the student yourself and use student.source checkpoint"
        ) from None
    described.load_state_dict(model.state_dict(), assign=True)
    described.tie_weights()
    if model.can_generate():
        described.generation_config = model.generation_config
    return described.train(model.training)


def _read_again(config: Any, total: int, indices: list[int]) -> Any:
    """The config for the layers that are left, as transformers reads it from a file."""
    content = json.loads(config.to_json_string(use_diff=False))
    text = config.get_text_config()
    section = next((name for name in config.sub_configs if getattr(config, name, None) is text), None)
    about = content if section is None else content[section]
    for name, value in about.items():
        if (cut := cut_value(name, value, total, indices)) is not None:
            about[name] = cut
    about[text.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(indices)
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(content), encoding="utf-8")
        return type(config).from_pretrained(directory)


def _check_same_tensors(name: str, n_layers: int, expected: dict[str, Any], actual: dict[str, Any]) -> None:
    other = sorted(
        tensor
        for tensor in expected.keys() | actual.keys()
        if _shape(expected.get(tensor)) != _shape(actual.get(tensor))
    )
    if other:
        raise SettingsError(
            f"student.layers: {name} chooses the kind of a layer by its number: cut to "
            f"{n_layers} layers, it would load with other tensors "
            f"({len(other)}, such as {other[0]}); make the student yourself and use student.source checkpoint"
        )


def _shape(tensor: torch.Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape
