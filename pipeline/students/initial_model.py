"""Makes the untrained student from a checkpoint, a config, or the teacher with fewer layers.

Weights are float32, the optimiser's master copy; autocast sets the compute dtype. Dropout is as in the config.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from logitlake.pipeline.settings.models import LoraSettings, StudentSettings
from logitlake.pipeline.students.identity import Parent
from logitlake.pipeline.students.preflight import check_layers
from logitlake.pipeline.teachers.files import TeacherFiles
from logitlake.pipeline.teachers.load_errors import LOAD_ERRORS
from logitlake.pipeline.teachers.loading import load_adapter, load_causal_lm
from logitlake.storage.errors import MismatchError, SettingsError


def make_student(
    settings: StudentSettings, parent: Parent, recipe: Mapping[str, Any], *, teacher: TeacherFiles | None, seed: int
) -> Any:
    """The student before training, on the CPU, in float32; PEFT-wrapped if the settings ask for LoRA.

    Fresh weights are drawn from `seed`. Raises SettingsError if a model can't be loaded, MismatchError for a student
    whose vocabulary is smaller than the recipe's.
    """
    set_seed(seed)
    if settings.source == "teacher":
        model = cut_layers(_teacher(teacher), _n_layers(settings))
        _check_config_matches(model)
    else:
        model = _from_config(settings) if settings.source == "config" else _from_checkpoint(settings, parent)
    rows = model.get_output_embeddings().weight.shape[0]
    if rows < recipe["vocabulary"]:
        raise MismatchError(
            f"student: expected an output layer of at least {recipe['vocabulary']} rows, one per id of the recipe's "
            f"tokenizer, found {rows}; use a student with a larger vocabulary"
        )
    model = model.to(torch.float32)
    model.config.dtype = torch.float32
    return model if settings.lora is None else _with_lora(model, settings.lora)


def _check_config_matches(model: Any) -> None:
    """Refuse a model whose config describes other tensors: after saving, some would load as fresh weights.

    It happens to teachers that choose a layer's kind by its number, because a cut changes the numbers.
    """
    with torch.device("meta"):
        fresh = type(model)(model.config).state_dict()
    actual = model.state_dict()
    other = sorted(name for name in fresh.keys() | actual.keys() if _shape(fresh.get(name)) != _shape(actual.get(name)))
    if other:
        raise SettingsError(
            f"student.layers: {type(model).__name__} chooses the kind of a layer by its number: cut to "
            f"{model.config.get_text_config().num_hidden_layers} layers, it would load with other tensors "
            f"({len(other)}, such as {other[0]}); make the student yourself and use student.source checkpoint"
        )


def _shape(tensor: torch.Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


def kept_layers(total: int, n_layers: int) -> list[int]:
    """Indices of the layers to keep: evenly spaced, with the first and the last (for one layer the first)."""
    check_layers(total, n_layers)
    if n_layers == 1:
        return [0]
    return [round(index * (total - 1) / (n_layers - 1)) for index in range(n_layers)]


def cut_layers(model: Any, n_layers: int) -> Any:
    """Keep `n_layers` of a model's decoder layers, in place, and change its config to match."""
    config = model.config.get_text_config()
    total = config.num_hidden_layers
    indices = kept_layers(total, n_layers)
    decoder = model.get_decoder()
    stacks = [
        name
        for name, module in decoder.named_children()
        if isinstance(module, torch.nn.ModuleList) and len(module) == total
    ]
    if len(stacks) != 1:
        raise SettingsError(
            f"{type(model).__name__}: expected one list of {total} layers in its decoder, found {len(stacks)}; "
            "make the student yourself and use student.source checkpoint"
        )
    layers = getattr(decoder, stacks[0])
    setattr(decoder, stacks[0], torch.nn.ModuleList(layers[index] for index in indices))
    for position, layer in enumerate(getattr(decoder, stacks[0])):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = position
    config.num_hidden_layers = n_layers
    for name, value in list(vars(config).items()):
        # Lists with one entry a layer, such as layer_types.
        if isinstance(value, list) and len(value) == total and "layer" in name:
            setattr(config, name, [value[index] for index in indices])
    return model


def _n_layers(settings: StudentSettings) -> int:
    assert settings.layers is not None
    return settings.layers


def _teacher(teacher: TeacherFiles | None) -> Any:
    if teacher is None:
        raise SettingsError(
            "student.source teacher: needs the teacher's files, found none; set the section `teacher`, or start from a "
            "checkpoint"
        )
    model = load_causal_lm(teacher.directory, "teacher.model", dtype="auto")
    if teacher.adapter_directory is not None:
        adapted = load_adapter(model.to(torch.float32), teacher.adapter_directory, "teacher.adapter")
        model = adapted.merge_and_unload()
    return model


def _from_checkpoint(settings: StudentSettings, parent: Parent) -> Any:
    return load_causal_lm(
        str(parent.directory), "student.model", dtype="auto", trust_remote_code=settings.trust_remote_code
    )


def _from_config(settings: StudentSettings) -> Any:
    try:
        config = AutoConfig.from_pretrained(
            settings.model, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
        config.dtype = torch.float32
        return AutoModelForCausalLM.from_config(config, trust_remote_code=settings.trust_remote_code)
    except LOAD_ERRORS as error:
        raise SettingsError(f"student.model {settings.model}: no model can be made from its config: {error}") from None


def _with_lora(model: Any, lora: LoraSettings) -> Any:
    targets = lora.target_modules
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type=TaskType.CAUSAL_LM,
    )
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that is about to change; nobody here can mend that.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            return get_peft_model(model, config)
    except ValueError as error:
        raise SettingsError(f"student.lora: {error}") from None
