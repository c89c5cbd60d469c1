"""What training from the cache is compared with: the same Trainer on the same batches with two other losses.

Ordinary cross-entropy is the model's own. Online distillation runs the teacher in every step, under no_grad, and takes
the KL of full distributions at the positions that have a target, as TRL's distillation trainers do.

Shapes: B sequences of T tokens, P positions with a target, V ids.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from logitlake.pipeline.reading.batches import NO_LABEL, TargetBatch
from logitlake.pipeline.reading.reader import RowSetReader


class PlainTrainer(Trainer):
    """transformers.Trainer with a dataloader that gives the reader's batches with labels in place of targets."""

    def __init__(self, model: Any, args: TrainingArguments, *, reader: RowSetReader, **options: Any) -> None:
        args.remove_unused_columns = False
        super().__init__(model=model, args=args, **options)
        self.reader = reader
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> Any:
        return _Labelled(self.reader)


class OnlineTrainer(PlainTrainer):
    """The teacher in the loop; `teacher_seconds` is what its forwards took."""

    def __init__(self, *arguments: Any, teacher: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.teacher = teacher
        self.teacher_seconds = 0.0

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Mean KL from the teacher to the student."""
        wanted_BT = inputs.pop("labels").roll(-1, dims=1) != NO_LABEL
        began = time.perf_counter()
        with torch.no_grad():
            theirs_PV = self.teacher(**inputs, use_cache=False).logits[wanted_BT].float().log_softmax(-1)
        self.teacher_seconds += time.perf_counter() - began
        own_PV = model(**inputs, use_cache=False).logits[wanted_BT].float().log_softmax(-1)
        return torch.nn.functional.kl_div(own_PV, theirs_PV, log_target=True, reduction="sum") / len(own_PV)


class StepTimes(TrainerCallback):
    """When every step ended, in time and in processor time."""

    def __init__(self) -> None:
        self.ended: list[tuple[float, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended.append((time.perf_counter(), time.process_time()))


def labelled(batch: TargetBatch) -> dict[str, torch.Tensor]:
    """A batch as a language model takes it: the label of token t stands at t, where the cache has a target for it.

    Packed sequences are told apart by their positions, as data collators of transformers do it.
    """
    labels_BT = torch.full_like(batch.input_ids, NO_LABEL)
    labels_BT[:, 1:] = batch.next_ids[:, :-1]
    packed = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    return {"input_ids": batch.input_ids, "labels": labels_BT, **packed}


class _Labelled:
    def __init__(self, reader: RowSetReader) -> None:
        self._reader = reader

    def __len__(self) -> int:
        return len(self._reader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (labelled(batch) for batch in self._reader)
