"""Trains a student on a row set and writes it as a Hugging Face model directory that states its lineage.

The directory is written in one step: it is complete or absent. Killed training resumes from its last complete
checkpoint; an existing student is not trained again.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.reading.blocks import Fetch
from logitlake.pipeline.reading.local_copy import LocalCopy
from logitlake.pipeline.reading.reader import RowSetReader
from logitlake.pipeline.saving.card_metadata import find_parent_origin
from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.settings.registry import LOSSES
from logitlake.pipeline.settings.training import TrainingSettings
from logitlake.pipeline.students.identity import Parent, as_named_before, find_parent, student_id
from logitlake.pipeline.students.initial_model import make_student
from logitlake.pipeline.students.preflight import existing_facts
from logitlake.pipeline.students.tokenizer import find_tokenizer
from logitlake.pipeline.students.work_directory import checkpoints_directory, work_directory
from logitlake.pipeline.teachers.devices import device_has_bfloat16, resolve_device
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.training.checkpoints import last_checkpoint, set_aside_later
from logitlake.pipeline.training.distillation_trainer import (
    DistillationTrainer,
    OnProgress,
    logging_steps,
    training_curve,
)
from logitlake.pipeline.training.model_loss import LossSettings
from logitlake.pipeline.training.save_student import Origins, save_student
from logitlake.storage.connection.disk_errors import full_disk_named
from logitlake.storage.errors import SettingsError
from logitlake.storage.row_sets.row_set import RowSet

log = logging.getLogger(__name__)

_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStudent:
    """A student on disk. `existed`: it was trained before, by an earlier call. `facts` is its logitlake.json."""

    student_id: str
    parent_id: str
    directory: Path
    existed: bool
    facts: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        return dict(self.facts["metrics"])

    @property
    def curve(self) -> list[list[float]]:
        """Loss over steps (see training_curve); empty for students of older versions, which did not store it."""
        return list(self.facts.get("curve", ()))


def train_student(
    student: StudentSettings,
    training: TrainingSettings,
    *,
    row_set: RowSet,
    fetch: Fetch,
    recipe: Mapping[str, Any],
    teacher: TeacherFiles | None = None,
    parent: Parent | None = None,
    chat_template: Path | None = None,
    show_progress: bool = True,
    on_progress: OnProgress | None = None,
    local_copy: LocalCopy | None = None,
) -> TrainedStudent:
    """Train one student on one row set, in this process or in all processes of `accelerate launch`.

    `fetch(unit_ids, columns)` reads rows; one background thread at a time calls it. `local_copy` stores decoded rows
    for later epochs. `recipe` is the stored recipe of the rows. `teacher` is needed only for its layers or its
    tokenizer. `parent` is the result of `find_parent`, if the caller has it already. Raises MismatchError if recipe and
    student do not match, SettingsError for wrong settings.
    """
    LOSSES.load(training.loss)  # a broken plug-in must fail before any row is read
    parent = parent or find_parent(student, recipe, teacher)
    output = training.output.expanduser().absolute()
    parent = as_named_before(parent, row_set, student, training, output)
    this_id = student_id(parent, row_set, student, training)
    if (facts := existing_facts(output, this_id)) is not None:
        return TrainedStudent(
            student_id=this_id, parent_id=parent.parent_id, directory=output, existed=True, facts=facts
        )
    tokenizer = find_tokenizer(student, parent, teacher, recipe, chat_template=chat_template)
    work, checkpoints = work_directory(output, this_id), checkpoints_directory(output, this_id)
    args = training_arguments(training, checkpoints, show_progress=show_progress)
    reader = RowSetReader(
        row_set,
        fetch,
        batch_sequences=training.sequences_a_batch,
        accumulation=training.gradient_accumulation,
        step_tokens=training.step_tokens,
        batch_tokens=training.batch_tokens,
        packing=training.packing,
        seed=training.seed,
        rank=args.process_index,
        world_size=args.world_size,
        cut_mass=training.tail,
        local_copy=local_copy,
    )
    args.logging_steps = logging_steps(training.max_steps or training.epochs * len(reader))
    loss = LossSettings(
        loss=training.loss,
        cross_entropy_weight=training.cross_entropy_weight,
        temperature=recipe["temperature"],
        chunk=training.loss_chunk,
    )
    model = make_student(student, parent, recipe, teacher=teacher, seed=training.seed)
    trainer = DistillationTrainer(
        model, args, reader=reader, loss=loss, save_minutes=training.save_minutes, on_progress=on_progress
    )
    resumed = _resume_point(trainer, checkpoints)
    log.info("student %s: %d steps an epoch%s", this_id[:12], len(reader), f", from {resumed.name}" if resumed else "")
    with full_disk_named(work.parent):
        result = trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    facts = _facts(this_id, parent, student, training, row_set, recipe) | {
        "metrics": _metrics(trainer, result, args),
        "curve": training_curve(trainer.state.log_history),
        "versions": _versions(),
    }
    origins = Origins(student=student, parent=parent, recipe=recipe, tokenizer=tokenizer, chat_template=chat_template)
    with full_disk_named(work.parent):
        facts = save_student(trainer, work, output, facts, origins)
    return TrainedStudent(student_id=this_id, parent_id=parent.parent_id, directory=output, existed=False, facts=facts)


def _resume_point(trainer: DistillationTrainer, directory: Path) -> Path | None:
    """The last whole checkpoint. The first rank looks, and all ranks take the one that it names."""
    resumed = None
    if trainer.is_world_process_zero():
        resumed = last_checkpoint(directory)
        set_aside_later(resumed, directory)
    (resumed,) = broadcast_object_list([resumed])
    return resumed


def training_arguments(training: TrainingSettings, directory: Path, *, show_progress: bool) -> TrainingArguments:
    """The settings as transformers' TrainingArguments."""
    use_cpu = training.device == "cpu" or resolve_device("auto").type == "cpu"
    precision = _precision(training, use_cpu)
    schedule = "constant_with_warmup" if training.schedule == "constant" else training.schedule
    args = TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        learning_rate=training.learning_rate,
        warmup_steps=training.warmup_share,
        lr_scheduler_type=schedule,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        activation_checkpointing=training.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if training.gradient_checkpointing else None,
        seed=training.seed,
        use_cpu=use_cpu,
        save_strategy="steps" if training.save_steps else "no",
        save_steps=training.save_steps or 500,
        save_total_limit=_KEPT_CHECKPOINTS,
        # Report NaN losses unchanged; filtering them would wait for the device at every batch.
        logging_nan_inf_filter=False,
        disable_tqdm=not show_progress,
        report_to="none",
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=False,
    )
    if args.n_gpu > 1:
        # DataParallel would copy the model's forward without its weights: one process a device, by accelerate launch.
        log.warning("%d devices found, using one; start with `accelerate launch` to use all", args.n_gpu)
        args._n_gpu = 1
    return args


def _precision(training: TrainingSettings, use_cpu: bool) -> str:
    if training.precision == "fp16" and use_cpu:
        raise SettingsError("training.precision fp16: not on a CPU; use bf16, fp32 or auto")
    if training.precision != "auto":
        return training.precision
    if use_cpu:
        return "bf16" if resolve_dtype("auto", "cpu") == "bfloat16" else "fp32"
    device = resolve_device("auto")
    if device_has_bfloat16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


def _facts(
    this_id: str,
    parent: Parent,
    student: StudentSettings,
    training: TrainingSettings,
    row_set: RowSet,
    recipe: Mapping[str, Any],
) -> dict[str, Any]:
    names = ("row_set_id", "recipe_ids", "up_to_commit", "where", "weight", "query", "content_hash")
    counts = ("n_sequences", "n_tokens", "n_targets")
    described = "cut from the teacher" if student.source == "teacher" else f"{student.source} {student.model}"
    return {
        "student_id": this_id,
        "parent_id": parent.parent_id,
        "parent": described,
        "origin": find_parent_origin(student, parent, recipe),
        "row_set": {name: getattr(row_set, name) for name in (*names, *counts)},
        "recipe": dict(recipe),
        "settings": {
            "student": student.model_dump(mode="json"),
            "training": training.model_dump(mode="json", exclude={"output"}),
        },
    }


def _metrics(trainer: DistillationTrainer, result: Any, args: TrainingArguments) -> dict[str, Any]:
    seen = trainer.seen_by_all()
    tokens, seconds = seen["tokens"], seen["seconds"]
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    return {
        "train_loss": seen["loss"] / max(result.global_step, 1),
        "steps": result.global_step,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else None,
        "processes": args.world_size,
        "device": args.device.type,
        "precision": precision,
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "accelerate", "peft")}
