"""The settings of a student's training."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from logitlake.pipeline.settings.base import Settings
from logitlake.pipeline.settings.paths import PathSetting
from logitlake.pipeline.settings.registry import LOSSES, NameIn


class TrainingSettings(Settings):
    """How the student learns. All of it is part of the student's id, but for `output`, `device`, `batch_tokens`,
    `packing`, `save_minutes`, `save_steps` and the local copy, which change no number."""

    output: PathSetting = Path("student")
    where: str | None = Field(None, description="SQL condition over the view `sequences`")
    weight: str | None = Field(None, description="SQL expression over `sequences`: sampling weight per sequence")
    query: str | None = Field(
        None, description="the documents to train on: SELECT of `doc_id`, with an optional sampling `weight`"
    )
    recipe: str | None = Field(None, description="recipe id or unique prefix; none: the one of the current settings")
    up_to_commit: int | None = Field(None, ge=1, description="train on commits up to this number; none: all")
    epochs: int = Field(1, ge=1)
    max_steps: int | None = Field(None, ge=1)
    step_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens per optimiser step on average, on all devices together; each step of an epoch has as many "
        "targets as the others; none: steps of `batch_sequences`",
    )
    batch_tokens: int = Field(
        8192,
        ge=1,
        description="with `step_tokens`: padded tokens per forward and device at most; a step may take several",
    )
    packing: bool = Field(
        False,
        description="with `step_tokens`: short sequences share the lines of a batch and do not see each other; refused "
        "for models that can't keep them apart",
    )
    batch_sequences: int | None = Field(
        None, ge=1, description="in place of `step_tokens`: sequences per forward and device; none: 8"
    )
    gradient_accumulation: int = Field(1, ge=1, description="with `batch_sequences`: forwards per step")
    learning_rate: float = Field(3e-4, gt=0)
    warmup_share: float = Field(0.05, ge=0, lt=1)
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    loss: Annotated[str, NameIn(LOSSES)] = Field("divergence", description="name of the loss function")
    cross_entropy_weight: float = Field(0.0, ge=0, le=1, description="share of the loss on the real next tokens")
    tail: Literal["renormalise", "ghost"] = Field(
        "renormalise",
        description="probability that top_k or top_p removed: scale heads to 1, or give it to the other ids",
    )
    loss_chunk: int = Field(1024, ge=1, description="positions whose logits exist at once")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    gradient_checkpointing: bool = False
    seed: int = Field(0, ge=0, lt=2**31)
    device: Literal["auto", "cpu"] = "auto"
    save_minutes: float | None = Field(
        5.0,
        gt=0,
        description="minutes between checkpoints to resume from, with one of the last step; none: not by time",
    )
    save_steps: int | None = Field(None, ge=1, description="also a checkpoint every so many steps; none: not by steps")
    local_copy: PathSetting | None = Field(
        None, description="folder on a local disk for decoded rows, which epochs after the first read; none: no copy"
    )
    local_copy_bytes: int = Field(
        50 * 10**9, ge=1, description="size of the local copy at most; files that were not read for longest go first"
    )

    @model_validator(mode="after")
    def _steps_are_cut_one_way(self) -> "TrainingSettings":
        if self.step_tokens is not None and (self.batch_sequences is not None or self.gradient_accumulation > 1):
            raise ValueError("set step_tokens, or batch_sequences and gradient_accumulation, not both")
        if self.packing and self.step_tokens is None:
            raise ValueError("packing needs step_tokens: set how many tokens a step has")
        return self

    @property
    def sequences_a_batch(self) -> int | None:
        """Sequences per forward and device; None where steps are cut by tokens."""
        return None if self.step_tokens is not None else self.batch_sequences or 8
