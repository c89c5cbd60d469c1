"""transformers.Trainer on targets from the cache.

The reader knows its rank and can resume, so the trainer uses its own dataloader, which accelerate does not shard, wrap
or fast-forward. A checkpoint holds the reader's state (see checkpoints.py).
"""

import json
import logging
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from logitlake.pipeline.reading.reader import RowSetReader
from logitlake.pipeline.training.checkpoints import READER_STATE, complete_checkpoint
from logitlake.pipeline.training.model_loss import LossSettings, attach_loss, batch_inputs, detach_loss
from logitlake.pipeline.training.packing import check_packing
from logitlake.storage.errors import MismatchError

log = logging.getLogger(__name__)

_BATCHES, _STEP_TARGETS = "batches", "step_targets"
_SEEN = "seen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Finished steps, all steps, and every few steps the mean loss since the last one reported."""

    step: int
    max_steps: int
    loss: float | None


OnProgress = Callable[[Progress], None]


@dataclass(slots=True)
class Seen:
    """Totals of a training on this rank, before a resume included: tokens, seconds, and the sum of the steps' losses.

    The sum of losses stays on the device.
    """

    tokens: int = 0
    seconds: float = 0.0
    loss: float | torch.Tensor = 0.0


class DistillationTrainer(Trainer):
    """Trainer of one student on one reader, which alone says what a step is: the arguments must not accumulate.

    For Trainer a step is one item of its dataloader; here it is several batches, their number is the reader's, and it
    may differ from step to step. The divisor of the loss is the number of targets of the whole step, over all ranks.
    `save_minutes`: minutes between checkpoints, beside those of the arguments; None for no checkpoint by time.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        reader: RowSetReader,
        loss: LossSettings,
        save_minutes: float | None = None,
        on_progress: OnProgress | None = None,
        **options: Any,
    ) -> None:
        if args.gradient_accumulation_steps != 1:
            raise ValueError("gradient_accumulation_steps must be 1: the reader accumulates")
        args.ignore_data_skip = True
        args.remove_unused_columns = False
        super().__init__(model=model, args=args, **options)
        self.reader = reader
        self.seen = Seen()
        self._began = time.monotonic()
        # compute_loss divides by the targets of the whole step: Trainer must not scale it again.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.parts = attach_loss(model, loss)
        if reader.packing:
            check_packing(self.parts, reader.longest_sequence())
        self.remove_callback(PrinterCallback)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(_Bar())
        self.add_callback(_ReaderState(self))
        if save_minutes is not None:
            self.add_callback(_SaveByTime(self, save_minutes * 60))
        if on_progress is not None:
            self.add_callback(_Report(on_progress))

    def get_train_dataloader(self) -> Any:
        return _Steps(self)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor | None]:
        """One optimiser step, and the targets in it on all ranks."""
        step = next(epoch_iterator, None)
        return ([], None) if step is None else ([step], torch.tensor(step[_STEP_TARGETS], device=device))

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of every batch of a step; gradients are synchronised in the last backward alone."""
        *first, last = inputs[_BATCHES]
        loss = torch.zeros((), device=self.args.device)
        gradients = self.accelerator.gradient_state
        for batch in first:
            gradients._set_sync_gradients(False)  # as accelerate does itself; DeepSpeed steps by it
            with self.accelerator.no_sync(model):
                loss = loss + super().training_step(model, batch, num_items_in_batch)
        gradients._set_sync_gradients(True)
        return loss + super().training_step(model, last, num_items_in_batch)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """An estimate of those of one step."""
        return sum(super(DistillationTrainer, self).floating_point_ops(batch) for batch in inputs[_BATCHES])

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Sum over this rank's targets, divided by the step's; DDP then averages over ranks, hence the factor."""
        assert num_items_in_batch is not None
        loss = model(**inputs, divisor=num_items_in_batch / self.accelerator.num_processes)
        self.seen.loss = loss.detach() + self.seen.loss
        return loss

    def train(self, resume_from_checkpoint: str | None = None, **options: Any) -> Any:
        """As Trainer.train; resumes at the batch after the checkpoint. Restores the model's own forward at the end."""
        if resume_from_checkpoint is not None:
            state = json.loads((Path(resume_from_checkpoint) / READER_STATE).read_text(encoding="utf-8"))
            try:
                self.reader.load_state_dict(state)
            except MismatchError as error:
                raise MismatchError(f"{resume_from_checkpoint}: {error}") from None
            self.seen = Seen(**state.get(_SEEN, {}))
            if not self.is_world_process_zero():
                self.seen.tokens = 0  # rank 0 has the tokens of all ranks before the resume
        self._began = time.monotonic() - self.seen.seconds
        try:
            with warnings.catch_warnings():
                # PEFT tells of each checkpoint of an adapter on the output layer that it holds that layer too.
                warnings.filterwarnings("ignore", "Setting `save_embedding_layers`", UserWarning)
                return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)
        finally:
            detach_loss(self.model)

    def has_all_steps(self) -> bool:
        """Whether the training was resumed from a checkpoint of its last step."""
        return 0 < self.state.max_steps <= self.state.global_step

    def seen_by_all(self) -> dict[str, float]:
        """The totals over all ranks, as numbers; every rank must call it. Waits for the device."""
        tokens = torch.tensor(self.seen.tokens, device=self.args.device)
        loss = torch.as_tensor(self.seen.loss, dtype=torch.float32, device=self.args.device)
        return {
            "tokens": int(self.accelerator.reduce(tokens).item()),
            # Each rank's loss is its share of the sum, scaled so that the mean over ranks is the mean over targets.
            "loss": float(self.accelerator.reduce(loss, reduction="mean").item()),
            "seconds": time.monotonic() - self._began,
        }


class _Steps:
    """The reader in the interface of a dataloader: an item is the batches of one step."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def __len__(self) -> int:
        return len(self._trainer.reader)

    def set_epoch(self, epoch: int) -> None:
        self._trainer.reader.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._trainer.has_all_steps():
            return  # Trainer asks for one more after a resume from the last step, where that lies inside an epoch.
        batches = []
        for batch in self._trainer.reader:
            self._trainer.seen.tokens += batch.n_tokens
            batches.append(batch_inputs(batch))
            if batch.ends_step:
                yield {_BATCHES: batches, _STEP_TARGETS: batch.step_targets}
                batches = []


class _ReaderState(TrainerCallback):
    """Completes each checkpoint with the reader's state, and corrects the epoch after a resume."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.epoch = state.global_step / len(self._trainer.reader)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Every rank gets here when it has written its files, and waits for the others.
        reader_state = {**self._trainer.reader.state_dict(), _SEEN: self._trainer.seen_by_all()}
        if not state.is_world_process_zero:
            return
        complete_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}", reader_state)


class _SaveByTime(TrainerCallback):
    """Asks for a checkpoint once `seconds` have passed since the last one, or since the start, and after the last step.

    The student is read again and compared next: an error there must not cost the training. Without room on the disk for
    it and for the student, the training goes on without: a full disk would end it.
    """

    def __init__(self, trainer: DistillationTrainer, seconds: float) -> None:
        self._trainer = trainer
        self._seconds = seconds
        self._saved = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._is_due(args, state):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved = time.monotonic()

    def _is_due(self, args: Any, state: Any) -> bool:
        """All ranks must agree, and their clocks do not: the first rank decides."""
        is_time = state.global_step >= state.max_steps or time.monotonic() - self._saved >= self._seconds
        due = state.is_world_process_zero and is_time and self._has_room(args)
        if args.world_size == 1:
            return due
        return bool(self._trainer.accelerator.reduce(torch.tensor(int(due), device=args.device)).item())

    def _has_room(self, args: Any) -> bool:
        output = Path(args.output_dir)
        folder = next(parent for parent in (output, *output.parents) if parent.is_dir())
        free, needed = shutil.disk_usage(folder).free, _checkpoint_bytes(self._trainer.model)
        if free >= needed:
            return True
        self._saved = time.monotonic()
        log.warning(
            "no checkpoint was written: %s has %.1f GB free, a checkpoint and the student may take %.1f GB; a training "
            "that is killed starts again from its last checkpoint",
            *(folder, free / 1e9, needed / 1e9),
        )
        return False


def _checkpoint_bytes(model: Any) -> int:
    """For a model and its student, which is written in float32 and then in its dtype: the weights three times, and two
    numbers of the optimiser for each trained weight."""
    return sum(
        parameter.numel() * (3 * parameter.element_size() + 8 * parameter.requires_grad)
        for parameter in model.parameters()
    )


class _Bar(ProgressCallback):
    """The usual bar with the loss beside it; ProgressCallback would print to standard output."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.3f}")


class _Report(TrainerCallback):
    """Calls `on_progress` at each step and at each logged loss."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._on_progress(Progress(step=state.global_step, max_steps=state.max_steps, loss=None))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            self._on_progress(Progress(step=state.global_step, max_steps=state.max_steps, loss=float(logs["loss"])))


POINTS = 200
_MOST_STEPS_A_POINT = 10
_LEAST_POINTS = 50


def logging_steps(total_steps: int) -> int:
    """Steps between two records of the loss: ten, or fewer for a training of less than 500 steps."""
    return max(1, min(_MOST_STEPS_A_POINT, total_steps // _LEAST_POINTS))


def training_curve(log_history: Sequence[Mapping[str, Any]], *, points: int = POINTS) -> list[list[float]]:
    """Points `[step, mean loss since the previous point]`, at most `points` of them: neighbours are averaged.

    `log_history` is that of transformers' TrainerState, which includes the steps before a resume. Losses that are not
    finite are left out.
    """
    entries = [entry for entry in log_history if math.isfinite(entry.get("loss", math.nan))]
    logged = [(int(entry["step"]), float(entry["loss"])) for entry in entries]
    steps = [step for step, _ in logged]
    each = -(-len(logged) // points) or 1
    curve = []
    for begin in range(0, len(logged), each):
        before = steps[begin - 1] if begin else 0
        total, last = 0.0, before
        for step, loss in logged[begin : begin + each]:
            total += loss * (step - last)
            last = step
        curve.append([last, round(total / (last - before), 6)])
    return curve
