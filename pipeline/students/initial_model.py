"""Makes the untrained student from a checkpoint, a config, or the teacher with fewer layers.

Weights are float32, the optimiser's master copy; autocast sets the compute dtype. Dropout is as in the config.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.load_errors import LOAD_ERRORS
from logitlake.pipeline.model_files.loading import load_adapter, load_causal_lm
from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.cut_layers import cut_layers
from logitlake.pipeline.students.identity import Parent
from logitlake.pipeline.students.lora import merged, with_lora
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
    return model if settings.lora is None else with_lora(model, settings.lora)


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
        model = merged(adapted, "teacher.adapter")
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
