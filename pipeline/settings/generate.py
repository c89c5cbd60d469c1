"""The section `generate`: prompts, the model that answers them, how it samples, and the verifier."""

from typing import Annotated

from pydantic import Field, SerializeAsAny

from logitlake.pipeline.settings.base import Settings
from logitlake.pipeline.settings.corpus import CorpusSettings
from logitlake.pipeline.settings.registry import WRITERS, NameIn
from logitlake.pipeline.settings.verifier import VerifierSettings


class GenerateSettings(Settings):
    """Traces: completions that a model writes for prompts, kept or dropped by a verifier."""

    prompts: SerializeAsAny[CorpusSettings] | None = Field(
        None, description="where prompts come from: name, kind, path and fields as in `corpora`"
    )
    writer: str = Field("teacher", min_length=1, description="`teacher`, or a student: its directory, id or alias")
    engine: Annotated[str, NameIn(WRITERS)] = Field(
        "transformers",
        description="what runs the writer; vllm and server take their settings from `teacher.vllm`, `teacher.server`",
    )
    samples: int = Field(1, ge=1, le=100_000, description="completions for each prompt")
    temperature: float = Field(1.0, ge=0, le=100, description="0: always the most probable token")
    top_p: float = Field(1.0, gt=0, le=1, description="sample from the most probable ids that have this mass")
    top_k: int | None = Field(None, ge=1, description="sample from so many of the most probable ids; none: from all")
    max_new_tokens: int = Field(256, ge=1, description="a longer completion is cut")
    max_prompt_tokens: int | None = Field(None, ge=1, description="longer prompts are left out; none: no bound")
    max_prompts: int | None = Field(None, ge=1, description="take only the first so many prompts")
    seed: int = Field(0, ge=0, lt=2**63)
    batch_sequences: int = Field(16, ge=1, description="completions that are written at once")
    unit_prompts: int = Field(32, ge=1, description="prompts per work unit: one task, one commit")
    verifier: SerializeAsAny[VerifierSettings] = Field(default_factory=VerifierSettings)
