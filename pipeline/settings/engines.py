"""Settings of single engines: sections of `teacher` that only the engine of their name reads."""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from logitlake.pipeline.settings.base import Settings
from logitlake.pipeline.settings.paths import PathText

# Arguments of vllm.LLM that logitlake sets itself, and the setting to use in their place.
_SET_BY_LOGITLAKE = {
    "model": "teacher.model",
    "tokenizer": "teacher.model",
    "revision": "teacher.revision",
    "dtype": "teacher.dtype",
    "trust_remote_code": "teacher.trust_remote_code",
    "runner": "nothing",
    "convert": "nothing",
    "pooler_config": "nothing",
    "enable_prefix_caching": "nothing",
    "skip_tokenizer_init": "nothing",
    "disable_log_stats": "nothing",
    "load_format": "nothing",
    "max_model_len": "tokenization.window",
    "hf_token": "the variable HF_TOKEN",
}


class EngineSettings(Settings):
    """A section that only one engine reads."""

    def __hash__(self) -> int:
        """A loaded teacher is remembered by its settings; a mapping has no hash of its own."""
        return hash(self.model_dump_json())


class TransformersSettings(EngineSettings):
    """Where transformers puts a teacher that one device does not hold."""

    device_map: str | dict[str, int | str] | None = Field(
        None, description="auto, balanced, sequential, or module: device, which may be cpu or disk; none: one device"
    )
    max_memory: dict[int | str, str] = Field(
        default_factory=dict, description="memory of each device that device_map may fill, as in 0: 70GiB, cpu: 200GiB"
    )
    offload_folder: PathText | None = Field(None, description="directory for the modules whose device is disk")


class ReplaySettings(EngineSettings):
    """A recording in place of a running teacher."""

    recording: PathText = Field(description="directory that a capture with capture.record has written")
    seconds_per_token: float = Field(
        0.0, ge=0, description="wait so long for each token, to simulate a teacher's speed; 0: as fast as the disk"
    )

    @property
    def directory(self) -> Path:
        """Where the recording is."""
        return Path(self.recording).expanduser()


class VllmSettings(EngineSettings):
    """How vLLM runs the teacher."""

    python: PathText | None = Field(
        None, description="Python of the environment that has vLLM; none: the one that runs logitlake"
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="arguments of vllm.LLM by their own names, such as tensor_parallel_size or quantization",
    )
    load_minutes: float = Field(60, gt=0, description="wait so long for vLLM to load the teacher")

    @field_validator("options")
    @classmethod
    def _not_set_by_logitlake(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if name in _SET_BY_LOGITLAKE:
                raise ValueError(f"{name} is set by logitlake: remove it, and use {_SET_BY_LOGITLAKE[name]} instead")
        return options
