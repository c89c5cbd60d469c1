"""What every benchmark shares: arms in child processes, interleaved rounds, one command line, one way to report.

A benchmark module makes a `Benchmark` and calls `run`. Its arms run as `python -m benchmarks.NAME --arm ARM`, each in a
process of its own, so that each has its own peak memory; rounds go through all arms in turn, forth and back, so that
a slow minute of the machine falls on all of them; a ratio is the median of the rounds' ratios.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.reporting import Reach, Summary, show, write
from benchmarks.surroundings import describe_machine

Measurements = dict[str, Any]

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "true"}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
_MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Arm:
    """One thing to measure. `measure` runs in a child process and returns numbers (or anything that JSON holds).

    `cores`: bind the child to so many cores; None: all that there are. The harness adds `peak_mb`.
    """

    measure: Callable[[], Measurements]
    cores: int | None = None


@dataclass(frozen=True, slots=True)
class Runs:
    """Every measurement of every arm, one entry per round."""

    of_arm: Mapping[str, Sequence[Measurements]]

    def median(self, arm: str, key: str) -> float:
        """Median over the rounds."""
        return float(median(run[key] for run in self.of_arm[arm]))

    def ratio(self, key: str, arm: str, over: str) -> float:
        """Median of the rounds' ratios of one arm's number to another's of the same round."""
        pairs = zip(self.of_arm[arm], self.of_arm[over], strict=True)
        return float(median(run[key] / reference[key] for run, reference in pairs))

    def spread(self, arm: str, key: str) -> float:
        """Largest over smallest of the rounds: how quiet the machine was."""
        values = [run[key] for run in self.of_arm[arm]]
        return float(max(values) / min(values))


def _no_preparation(quick: bool) -> None:
    """A benchmark whose arms need no inputs made beforehand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What a module under benchmarks/ measures. `name` is the module's name.

    `arms(quick)` gives the arms by name in their order; `prepare(quick)` makes the inputs that they share, once, in the
    parent, untimed and kept between runs; `summarise(runs, quick)` turns measurements into figures, tables and a plot.
    """

    name: str
    title: str
    arms: Callable[[bool], Mapping[str, Arm]]
    summarise: Callable[[Runs, bool], Summary]
    prepare: Callable[[bool], None] = _no_preparation
    reach: tuple[Reach, ...] = ()
    rounds: int = 5
    quick_rounds: int = 3
    environment: Mapping[str, str] = field(default_factory=dict)


def run(benchmark: Benchmark, arguments: Sequence[str] | None = None) -> None:
    """The command line of a benchmark: measure all arms, or be the child that measures one of them."""
    options = _parser(benchmark).parse_args(arguments)
    if options.arm is not None:
        _measure_here(benchmark.arms(options.quick)[options.arm], Path(options.measurements))
        return
    os.environ.update(_OFFLINE)
    began = time.perf_counter()
    machine = describe_machine()
    benchmark.prepare(options.quick)
    rounds = options.rounds or (benchmark.quick_rounds if options.quick else benchmark.rounds)
    runs = _measure_all(benchmark, quick=options.quick, rounds=rounds)
    summary = benchmark.summarise(runs, options.quick)
    record = {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "command": " ".join(["python", "-m", f"benchmarks.{benchmark.name}", *_asked_for(options)]),
        "quick": options.quick,
        "rounds": rounds,
        "seconds": round(time.perf_counter() - began, 1),
        **machine,
        "runs": {arm: list(measured) for arm, measured in runs.of_arm.items()},
    }
    write(benchmark.name, summary, benchmark.reach, record, quick=options.quick)
    show(Console(width=120), benchmark.title, summary, benchmark.reach)
    print(json.dumps(summary.figures))


def _asked_for(options: argparse.Namespace) -> list[str]:
    return ["--quick"] * options.quick + (["--rounds", str(options.rounds)] if options.rounds else [])


def peak_memory_mb() -> float:
    """The most memory that this process has held at once, in MB.

    Linux counts a forked child's `ru_maxrss` from what its parent held at the fork, so the kernel's mark of this very
    address space is read where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MEGABYTE if sys.platform == "darwin" else peak / 1024


def _parser(benchmark: Benchmark) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark.name}", description=benchmark.title)
    parser.add_argument("--quick", action="store_true", help="smaller inputs and fewer rounds")
    parser.add_argument("--rounds", type=int, help="how often each arm is measured")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--measurements", help=argparse.SUPPRESS)
    return parser


def _measure_here(arm: Arm, output: Path) -> None:
    measured = arm.measure()
    output.write_text(json.dumps({**measured, "peak_mb": round(peak_memory_mb(), 1)}))


def _measure_all(benchmark: Benchmark, *, quick: bool, rounds: int) -> Runs:
    arms = benchmark.arms(quick)
    measured: dict[str, list[Measurements]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in list(arms)[:: -1 if number % 2 else 1]:
            began = time.perf_counter()
            measured[name].append(_measure_in_child(benchmark, name, arms[name].cores, quick))
            took = time.perf_counter() - began
            print(f"{benchmark.name}: round {number + 1}/{rounds}, {name}: {took:.1f} s", file=sys.stderr, flush=True)
    return Runs(measured)


def _measure_in_child(benchmark: Benchmark, name: str, cores: int | None, quick: bool) -> Measurements:
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "measurements.json"
        command = [sys.executable, "-m", f"benchmarks.{benchmark.name}", "--arm", name, "--measurements", str(output)]
        environment = {**os.environ, **_OFFLINE, **benchmark.environment}
        if cores is not None:
            environment.update(dict.fromkeys(_THREAD_VARIABLES, str(cores)))
        # What a child prints goes to stderr: the last line of stdout is the figures.
        done = subprocess.run(
            [*command, *(["--quick"] if quick else [])],
            env=environment,
            stdout=sys.stderr,
            preexec_fn=None if cores is None else lambda: _bind(cores),
        )
        if done.returncode:
            raise SystemExit(f"benchmark {benchmark.name}: arm {name} failed with exit code {done.returncode}")
        return dict(json.loads(output.read_text()))


def _bind(cores: int) -> None:
    """Leave this process `cores` of the cores that it may use, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
