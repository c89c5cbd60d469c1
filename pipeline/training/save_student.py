"""Writes a trained student's directory in one step, after it was read again and compared with the trained model."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache

from logitlake.pipeline.saving.model_card import write_card
from logitlake.pipeline.saving.named_tokens import write_named_tokens
from logitlake.pipeline.saving.probe import ROUNDED, SAME, probe_logits, probe_sequences
from logitlake.pipeline.saving.saved_dtype import saved_dtype
from logitlake.pipeline.saving.write_and_compare import (
    Trained,
    check_adapter,
    check_merged,
    check_tokenizer_again,
    make_readable,
    write_in_dtype,
)
from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.file_hashes import hash_files
from logitlake.pipeline.students.identity import FILES, NOT_HASHED, Parent
from logitlake.pipeline.students.lora import merged
from logitlake.pipeline.students.tokenizer import copy_tokenizer
from logitlake.pipeline.training.distillation_trainer import DistillationTrainer
from logitlake.pipeline.training.long_wait import long_wait
from logitlake.pipeline.training.sync_directory import sync_directory

_ADAPTER = "adapter"
_DEFAULT_WINDOW = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """What a student was made from: its settings, its parent, the recipe, and where its tokenizer lies."""

    student: StudentSettings
    parent: Parent
    recipe: Mapping[str, Any]
    tokenizer: Path
    chat_template: Path | None


def save_student(
    trainer: DistillationTrainer, work: Path, output: Path, facts: Mapping[str, Any], origins: Origins
) -> dict[str, Any]:
    """Write below `work`, compare, then rename to `output`. Every rank must call it; the first one writes.

    Returns the facts that were written: with the hashes of the files, on the first rank. Raises MismatchError if plain
    transformers reads another model or tokenizer than was trained; then `output` does not exist.
    """
    facts, student = dict(facts), origins.student
    full, staging = work / "float32", work / "student"
    if trainer.args.should_save:
        for directory in (full, staging):
            shutil.rmtree(directory, ignore_errors=True)
        full.mkdir(parents=True)
    trainer.accelerator.wait_for_everyone()
    wait_for_first_rank = long_wait(trainer.accelerator)
    if not _in_parts(trainer):
        _release_optimizer(trainer)
    trained = _trained(trainer, facts["student_id"], origins)
    adapted = hasattr(trainer.model, "peft_config")
    if not adapted:
        trainer.save_model(str(full))
    if trainer.args.should_save:
        adapter = _save_adapter(trainer.model, work / _ADAPTER, trained, origins) if adapted else None
        whole = merged(trainer.model, "student.lora") if adapted else trainer.model
        if adapted:
            whole.save_pretrained(full)
        if not _in_parts(trainer):
            trained = replace(_merged(trained, whole) if adapted else trained, weights=whole.state_dict())
        for pickled in full.rglob("training_args.bin"):
            pickled.unlink()
        saved = write_in_dtype(
            *(full, staging, trained), dtype=saved_dtype(student, origins.parent), or_float32=student.dtype == "auto"
        )
        if adapter is not None:
            adapter.rename(staging / _ADAPTER)
        copy_tokenizer(origins.tokenizer, staging, chat_template=origins.chat_template)
        write_named_tokens(staging, trust_remote_code=student.trust_remote_code)
        check_tokenizer_again(origins.tokenizer, staging, trained.name, trust_remote_code=student.trust_remote_code)
        facts["saved"] = {"dtype": saved.dtype, "rounding_kl": saved.rounding_kl}
        facts[FILES] = hash_files(staging, leave_out=NOT_HASHED)
        write_card(staging, facts)
        make_readable(staging)
        sync_directory(staging)
        output.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(output)
        shutil.rmtree(work, ignore_errors=True)
    wait_for_first_rank()
    return facts


def _in_parts(trainer: DistillationTrainer) -> bool:
    """Whether no process has all weights. Such a model computes in the dtype of its training."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def _release_optimizer(trainer: DistillationTrainer) -> None:
    """Give back two numbers for each trained weight, and the gradients: room for the model that is read again."""
    if trainer.optimizer is not None:
        trainer.optimizer.state.clear()
    trainer.model.zero_grad(set_to_none=True)
    clear_device_cache()


def _merged(trained: Trained, whole: Any) -> Trained:
    """The same student with the logits after merging: sums have another order there."""
    logits = probe_logits(whole, trained.sequences)
    check_merged(trained, logits)
    return replace(trained, logits=logits)


def _trained(trainer: DistillationTrainer, student_id: str, origins: Origins) -> Trained:
    """The trained model's logits in memory. Every rank must call it: a model in parts computes on all of them."""
    model, recipe = trainer.model, origins.recipe
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    window = recipe.get("window", _DEFAULT_WINDOW)
    sequences = probe_sequences(inner.config, vocabulary=recipe["vocabulary"], window=window)
    in_parts = _in_parts(trainer)
    return Trained(
        name=student_id[:12],
        sequences=sequences,
        logits=probe_logits(trainer.model_wrapped if in_parts else model, sequences, inner=inner),
        device=torch.device(trainer.args.device),
        trust_remote_code=origins.student.trust_remote_code,
        limit=ROUNDED if in_parts else SAME,
    )


def _save_adapter(model: Any, directory: Path, trained: Trained, origins: Origins) -> Path | None:
    """The adapter by itself; None where no files hold the model that it adapts, as for a student cut from a teacher."""
    parent = origins.parent.directory
    if origins.student.source != "checkpoint" or parent is None:
        return None
    shutil.rmtree(directory, ignore_errors=True)
    named = origins.student.model
    assert named is not None
    for config in model.peft_config.values():
        is_directory = Path(named).expanduser().is_dir()
        config.base_model_name_or_path = str(parent.absolute()) if is_directory else named
    # Without this, PEFT would add the whole output layer where it is adapted.
    model.save_pretrained(str(directory), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    check_adapter(parent, directory, trained)
    return directory
