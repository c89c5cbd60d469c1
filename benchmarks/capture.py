"""The whole capture, shards committed, over the teacher's bare forward and over the script that a user would write.

All arms take the same documents in the same windows. The first work unit warms up: teacher loaded, kernels chosen,
memory taken; the time is that of the others, from the first of their tokens to the last commit or file.

- bare forward: `model(...)` on the very batches of the capture: body, and output layer over every position of them.
- script: padded batches of 8 in file order, `log_softmax` in float32, `topk` 50, one Parquet file at the end.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM

from benchmarks.captured import benchmark_config
from benchmarks.harness import Arm, Benchmark, Measurements, Runs, run
from benchmarks.reporting import Reach, Summary
from benchmarks.sample import padded_ids
from benchmarks.speed import plot_speed, speed_table
from logitlake.flows.capture.preparation import prepare
from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.terminal.progress import quiet_transformers
from logitlake.pipeline.capture.planning import WorkUnit, make_batches
from logitlake.pipeline.settings.models import CaptureSettings, Config
from logitlake.pipeline.teachers.devices import resolve_device
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.tokens.sequences import TokenSequence

_SCRIPT_BATCH = 8
_SCRIPT_TOP_K = 50


class Stopwatch:
    """Time and processor time from `start` on, in seconds."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def measurements(self, n_tokens: int) -> Measurements:
        """Speeds for `n_tokens` since the start."""
        seconds, cpu_seconds = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        return {
            "tokens": n_tokens,
            "seconds": seconds,
            "tokens_per_s": n_tokens / seconds,
            "tokens_per_cpu_s": n_tokens / cpu_seconds,
        }


def capture_config(quick: bool, lake: Path) -> Config:
    """The demo's settings: a unit that warms up, and two (quick) or three that count."""
    unit_tokens, units = (3_000, 3) if quick else (6_000, 4)
    config = benchmark_config()
    return config.model_copy(
        update={
            "lake": config.lake.model_copy(update={"path": lake}),
            "capture": CaptureSettings(unit_tokens=unit_tokens, max_tokens=unit_tokens * units),
        }
    )


def measure_capture(quick: bool, teacher: Mapping[str, Any] | None = None) -> Measurements:
    """The whole capture as in the teacher flow: a unit is committed while the next one is computed.

    `teacher` changes settings of the teacher, such as its engine.
    """
    watch, n_tokens = Stopwatch(), 0
    with (
        tempfile.TemporaryDirectory(prefix="logitlake-bench-") as directory,
        CaptureRun(_with_teacher(capture_config(quick, Path(directory) / "lake"), teacher or {})) as run,
        ThreadPoolExecutor(1) as committer,
    ):
        committing = None
        for number in run.units():
            run.compute(number)
            if committing is not None:
                committing.result()
            committing = committer.submit(run.commit, number)
            if n_tokens == 0:
                committing.result()
                n_tokens = run.report.n_tokens
                watch.start()
        assert committing is not None
        committing.result()
        return {**watch.measurements(run.report.n_tokens - n_tokens), "units": run.report.n_units - 1}


def _with_teacher(config: Config, changes: Mapping[str, Any]) -> Config:
    raw = {**config.teacher.model_dump(), **changes}
    return config.model_copy(update={"teacher": type(config.teacher).model_validate(raw)})


def measure_forward(quick: bool) -> Measurements:
    """The teacher's forward alone: the minimum of any capture."""
    model = _teacher(quick)

    def forward(sequences: Sequence[TokenSequence], batch_tokens: int) -> None:
        for indices in make_batches([len(sequence.input_ids) for sequence in sequences], batch_tokens):
            _logits(model, [sequences[i] for i in indices])

    return _over_units(quick, forward)


def measure_script(quick: bool) -> Measurements:
    """The script that a user would write."""
    model = _teacher(quick)
    with tempfile.TemporaryDirectory(prefix="logitlake-bench-") as directory:
        positions: list[tuple[torch.Tensor, torch.Tensor]] = []

        def script(sequences: Sequence[TokenSequence], _: int) -> None:
            for begin in range(0, len(sequences), _SCRIPT_BATCH):
                batch = sequences[begin : begin + _SCRIPT_BATCH]
                logprobs = torch.log_softmax(_logits(model, batch).float(), dim=-1)
                values, ids = torch.topk(logprobs, _SCRIPT_TOP_K, dim=-1)
                for row, sequence in enumerate(batch):
                    n = len(sequence.input_ids)
                    positions.append((ids[row, :n].to("cpu", copy=True), values[row, :n].to("cpu", copy=True)))

        def write() -> None:
            ids, values = (torch.cat([part[column] for part in positions]).numpy() for column in (0, 1))
            table = pa.table({"ids": list(ids.astype(np.int32)), "logprobs": list(values)})
            positions.clear()
            pq.write_table(table, Path(directory) / "logprobs.parquet")

        return _over_units(quick, script, write)


def _over_units(
    quick: bool, work: Callable[[Sequence[TokenSequence], int], None], finish: Callable[[], None] = lambda: None
) -> Measurements:
    """Reading and tokenising stay outside the time of the peers, and inside ours."""
    config = capture_config(quick, Path("lake"))
    first, *others = (unit for unit in prepare(config).plan(lambda doc_ids: set()) if unit.documents)
    work(sequences_of(first), config.capture.batch_tokens)
    finish()
    synchronize()
    watch = Stopwatch()
    for unit in others:
        work(sequences_of(unit), config.capture.batch_tokens)
    finish()
    synchronize()
    return watch.measurements(sum(unit.n_tokens for unit in others))


def synchronize() -> None:
    """Wait for what an accelerator has been asked to compute: without a look at its results nothing else does."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def sequences_of(unit: WorkUnit) -> list[TokenSequence]:
    return [sequence for document in unit.documents for sequence in document.sequences]


def _teacher(quick: bool) -> Any:
    quiet_transformers()
    directory = prepare(capture_config(quick, Path("lake"))).files.directory
    dtype = getattr(torch, resolve_dtype("auto", "auto"))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, use_safetensors=True)
    return model.eval().to(resolve_device("auto"))


@torch.inference_mode()
def _logits(model: Any, sequences: Sequence[TokenSequence]) -> torch.Tensor:
    """Logits `[B, L, V]` of right-padded sequences; a mask only where there is padding."""
    input_ids = padded_ids(sequences).to(model.device)
    lengths = torch.tensor([len(sequence.input_ids) for sequence in sequences])
    mask = (torch.arange(input_ids.shape[1])[None] < lengths[:, None]).to(model.device)
    return model(input_ids=input_ids, attention_mask=None if mask.all() else mask.long(), use_cache=False).logits


def _arms(quick: bool) -> Mapping[str, Arm]:
    return {
        "logitlake": Arm(partial(measure_capture, quick)),
        "bare forward": Arm(partial(measure_forward, quick)),
        "script": Arm(partial(measure_script, quick)),
    }


def summarise(runs: Runs, quick: bool) -> Summary:
    """Speeds, memory, and our share of the forward's."""
    by_cpu = runs.ratio("tokens_per_cpu_s", "logitlake", "bare forward")
    return Summary(
        figures={
            "vs_forward": runs.ratio("tokens_per_s", "logitlake", "bare forward"),
            "vs_script": runs.ratio("tokens_per_s", "logitlake", "script"),
            "memory_vs_script": runs.ratio("peak_mb", "logitlake", "script"),
        },
        tables=[speed_table("A capture from plan to committed shard", runs)],
        plot=partial(plot_speed, runs),
        notes=[f"By processor time, which other load changes less: {by_cpu:.2f} of the forward's speed."],
    )


BENCHMARK = Benchmark(
    name="capture",
    title="Capture against the teacher's bare forward and a script",
    arms=_arms,
    summarise=summarise,
    reach=(
        Reach("vs_forward", "at least", 0.9),
        Reach("vs_script", "at least", 1.5),
        Reach("memory_vs_script", "at most", 1),
    ),
    rounds=3,
    quick_rounds=2,
)

if __name__ == "__main__":
    run(BENCHMARK)
