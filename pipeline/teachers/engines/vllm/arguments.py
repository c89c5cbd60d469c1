"""Arguments of vllm.LLM: those of the settings, and what logitlake sets."""

from typing import Any

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.storage.errors import SettingsError


def model_arguments(settings: TeacherSettings, files: TeacherFiles, dtype: str) -> dict[str, Any]:
    """What every use of vLLM passes."""
    return {
        # As long as the key-value cache allows, up to the positions of the model.
        "max_model_len": -1,
        **settings.vllm.options,
        "model": str(files.directory.absolute()),
        "dtype": dtype,
        "trust_remote_code": settings.trust_remote_code,
    }


def hidden_state_arguments(settings: TeacherSettings, files: TeacherFiles, dtype: str) -> dict[str, Any]:
    """What a model of which only hidden states are wanted needs beside."""
    arguments = model_arguments(settings, files, dtype)
    # Pooling models convert hidden states to float32 otherwise: twice the bytes, and no more information.
    return {**arguments, "hf_overrides": {"head_dtype": "model", **arguments.get("hf_overrides", {})}}


def refuse_adapter(files: TeacherFiles) -> None:
    """Raises SettingsError for a model with an adapter."""
    if files.adapter_directory is not None:
        raise SettingsError(
            f"teacher.adapter {files.adapter_directory}: the engine vllm applies no adapter; merge it into the weights "
            "and name these in teacher.model, or use the engine transformers"
        )
