"""Arguments of vllm.LLM: those of the settings, and what logitlake sets."""

from pathlib import Path
from typing import Any

from logitlake.pipeline.model_files.files import TeacherFiles, safetensors_files
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.storage.errors import SettingsError


def model_arguments(settings: TeacherSettings, files: TeacherFiles, dtype: str) -> dict[str, Any]:
    """What every use of vLLM passes. Raises SettingsError where vLLM would load other weights than those hashed."""
    _refuse_other_weights(files.directory)
    return {
        # As long as the key-value cache allows, up to the positions of the model.
        "max_model_len": -1,
        **settings.vllm.options,
        "model": str(files.directory.absolute()),
        # By default vLLM prefers Mistral's own `consolidated*.safetensors` where they lie beside.
        "load_format": "safetensors",
        "dtype": dtype,
        "trust_remote_code": settings.trust_remote_code,
    }


def hidden_state_arguments(
    settings: TeacherSettings, files: TeacherFiles, dtype: str, *, window: int
) -> dict[str, Any]:
    """What a model of which only hidden states are wanted needs beside.

    `window` is the longest sequence: some RoPE scalings choose their factors by the length that vLLM is told.
    """
    arguments = model_arguments(settings, files, dtype)
    # Pooling models convert hidden states to float32 otherwise: twice the bytes, and no more information.
    overrides = {"head_dtype": "model", **arguments.get("hf_overrides", {})}
    return {**arguments, "max_model_len": window, "hf_overrides": overrides}


def _refuse_other_weights(directory: Path) -> None:
    """Without an index vLLM loads every safetensors file of a directory, and transformers one."""
    if (directory / "model.safetensors.index.json").is_file():
        return
    hashed = safetensors_files(directory)
    if not hashed:
        raise SettingsError(f"teacher {directory}: vLLM is given safetensors only, found none: save the model as such")
    if others := sorted(path.name for path in directory.glob("*.safetensors") if path not in hashed):
        raise SettingsError(
            f"teacher {directory}: vLLM would load {', '.join(others)} beside {hashed[0].name}, which is the teacher; "
            "move them away"
        )


def refuse_adapter(files: TeacherFiles) -> None:
    """Raises SettingsError for a model with an adapter."""
    if files.adapter_directory is not None:
        raise SettingsError(
            f"teacher.adapter {files.adapter_directory}: the engine vllm applies no adapter; merge it into the weights "
            "and name these in teacher.model, or use the engine transformers"
        )
