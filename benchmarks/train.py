"""A student's step from the cache over plain fine-tuning, and over distillation with the teacher in the loop.

Teacher, student and settings of the demo; in all arms float32 weights under bfloat16 autocast and the teacher in
bfloat16, or all in float32 where the processor does not multiply bfloat16; the same batches in the same order. The
first steps warm up; reading and decoding of the cache are inside the time. Two more arms, the cache and its peer, train
on packed sequences in even steps, each of one batch.
"""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.captured import captured_lake
from benchmarks.demo_student import student_config
from benchmarks.harness import Arm, Benchmark, Measurements, Runs, run
from benchmarks.reporting import Reach, Summary
from benchmarks.speed import plot_speed, speed_table
from benchmarks.training_peers import OnlineTrainer, PlainTrainer, StepTimes
from logitlake.flows.terminal.progress import quiet_transformers
from logitlake.pipeline.api import LossSettings, Rows, open_rows, sparse_divergence
from logitlake.pipeline.model_files.files import TeacherFiles, resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.settings.training import TrainingSettings
from logitlake.pipeline.students.identity import find_parent
from logitlake.pipeline.students.initial_model import make_student
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.training.distillation_trainer import DistillationTrainer
from logitlake.pipeline.training.train_student import training_arguments

_WARM_STEPS = 2
_LARGER = 10
_CHECKED_POSITIONS = 128
_PACKED = ", packed"
_PACKED_TOKENS = 2048


def measure(arm: str, quick: bool) -> Measurements:
    """Speed of one way to train."""
    quiet_transformers()
    config = student_config()
    assert config.student is not None and config.teacher is not None
    teacher = resolve_teacher(TeacherSettings(model=config.teacher.model))
    packed = arm.endswith(_PACKED)
    rows = _rows(config.training, packed)
    parent = find_parent(config.student, rows.recipe, teacher)
    student = make_student(config.student, parent, rows.recipe, teacher=teacher, seed=config.training.seed)
    steps = 4 if quick else 16
    times = StepTimes()
    with tempfile.TemporaryDirectory(prefix="logitlake-bench-") as directory:
        settings = config.training.model_copy(update={"max_steps": _WARM_STEPS + steps, "precision": "auto"})
        args = training_arguments(settings, Path(directory), show_progress=False)
        trainer = _trainer(arm.removesuffix(_PACKED), student, args, rows, teacher)
        trainer.add_callback(times)
        trainer.train()
    (began, began_cpu), (ended, ended_cpu) = times.ended[_WARM_STEPS - 1], times.ended[-1]
    n_tokens = _tokens(config.training, packed, range(_WARM_STEPS, _WARM_STEPS + steps))
    return {
        "tokens_per_s": n_tokens / (ended - began),
        "tokens_per_cpu_s": n_tokens / (ended_cpu - began_cpu),
        "seconds": ended - began,
        "teacher_seconds": getattr(trainer, "teacher_seconds", 0.0) * steps / (_WARM_STEPS + steps),
    }


def _trainer(arm: str, student: Any, args: Any, rows: Rows, teacher: TeacherFiles) -> Any:
    if arm == "cache":
        loss = LossSettings(temperature=rows.recipe["temperature"])
        return DistillationTrainer(student, args, reader=rows.reader, loss=loss)
    if arm == "cross-entropy":
        return PlainTrainer(student, args, reader=rows.reader)
    dtype = getattr(torch, resolve_dtype("auto", "cpu"))
    model = AutoModelForCausalLM.from_pretrained(teacher.directory, dtype=dtype, use_safetensors=True)
    return OnlineTrainer(student, args, reader=rows.reader, teacher=model.eval().requires_grad_(False))


def _rows(training: TrainingSettings, packed: bool) -> Rows:
    lake = Path(captured_lake().data).parent
    if packed:
        size: dict[str, Any] = {"step_tokens": _PACKED_TOKENS, "batch_tokens": 2 * _PACKED_TOKENS, "packing": True}
    else:
        size = {"batch_sequences": training.batch_sequences}
    return open_rows(lake, seed=training.seed, **size)


def _tokens(training: TrainingSettings, packed: bool, steps: range) -> int:
    batches = [batch for _, batch in zip(range(steps.stop), _rows(training, packed).reader, strict=False)]
    assert all(batch.ends_step for batch in batches), "the peer takes a batch for a step"
    return sum(batch.n_tokens for batch in batches[steps.start :])


def reference_errors() -> tuple[float, float]:
    """Largest relative error of loss and gradient against a dense reference, float32, on real targets of the cache."""
    training = student_config().training
    batch = next(iter(_rows(training, False).reader))
    n_rows, width, n_ids = batch.input_ids.numel(), 64, 49_152
    generator = torch.Generator().manual_seed(0)
    keep = batch.targets.offsets[: _CHECKED_POSITIONS + 1]
    results = []
    for dense in (False, True):
        hidden = torch.randn(len(keep) - 1, width, generator=generator.manual_seed(0)).requires_grad_()
        weight = torch.randn(n_ids, width, generator=generator.manual_seed(1)).mul_(0.3).requires_grad_()
        ids, probs = batch.targets.ids[: keep[-1]], batch.targets.probs[: keep[-1]]
        if dense:
            rows = torch.repeat_interleave(torch.arange(len(keep) - 1), keep.diff())
            full = torch.zeros(len(keep) - 1, n_ids).index_put_((rows, ids), probs, accumulate=True)
            count = int((keep.diff() > 0).sum())
            loss = -(full * (hidden @ weight.t()).log_softmax(-1)).sum() / count
        else:
            targets = type(batch.targets)(offsets=keep, ids=ids, probs=probs)
            loss = sparse_divergence(hidden, weight, targets)
        loss.backward()
        results.append((loss.detach(), hidden.grad, weight.grad))
    assert n_rows >= _CHECKED_POSITIONS
    (loss, *grads), (reference, *expected) = results
    errors = [float((grad - exact).norm() / exact.norm()) for grad, exact in zip(grads, expected, strict=True)]
    return abs(float(loss / reference) - 1), max(errors)


_ARMS = ("cache", "cross-entropy", "online", f"cache{_PACKED}", f"cross-entropy{_PACKED}")


def _arms(quick: bool) -> Mapping[str, Arm]:
    return {arm: Arm(partial(measure, arm, quick)) for arm in _ARMS}


def _prepare(quick: bool) -> None:
    captured_lake()


def summarise(runs: Runs, quick: bool) -> Summary:
    """Speeds and memory; what a larger teacher would make of the online arm; the loss against its reference."""
    larger = [online["seconds"] + (_LARGER - 1) * online["teacher_seconds"] for online in runs.of_arm["online"]]
    ratios = [seconds / cache["seconds"] for seconds, cache in zip(larger, runs.of_arm["cache"], strict=True)]
    vs_larger = sorted(ratios)[len(ratios) // 2]
    by_cpu = runs.ratio("tokens_per_cpu_s", "cache", "cross-entropy")
    loss_error, grad_error = reference_errors()
    return Summary(
        figures={
            "vs_cross_entropy": runs.ratio("tokens_per_s", "cache", "cross-entropy"),
            "memory_vs_cross_entropy": runs.ratio("peak_mb", "cache", "cross-entropy"),
            "vs_online": runs.ratio("tokens_per_s", "cache", "online"),
            "packing_gain": runs.ratio("tokens_per_cpu_s", f"cache{_PACKED}", "cache"),
            "packed_vs_cross_entropy": runs.ratio("tokens_per_cpu_s", f"cache{_PACKED}", f"cross-entropy{_PACKED}"),
        },
        tables=[speed_table("A student's training steps", runs)],
        plot=partial(plot_speed, runs),
        notes=[
            f"With a teacher {_LARGER} times as large, online distillation would take {vs_larger:.1f} x the time "
            "from the cache: its measured time plus the additional time of the teacher's forward.",
            f"Against a dense float32 reference on {_CHECKED_POSITIONS} real positions: loss off by {loss_error:.1e}, "
            f"gradients by {grad_error:.1e} of their norm.",
            f"By processor time, which a busy machine changes less: {by_cpu:.2f} x cross-entropy.",
        ],
    )


BENCHMARK = Benchmark(
    name="train",
    title="Training from the cache",
    arms=_arms,
    prepare=_prepare,
    summarise=summarise,
    reach=(
        Reach("vs_cross_entropy", "at least", 1.05),
        Reach("memory_vs_cross_entropy", "at most", 0.85),
        Reach("vs_online", "at least", 1.6),
    ),
    rounds=3,
    quick_rounds=1,
)

if __name__ == "__main__":
    run(BENCHMARK)
