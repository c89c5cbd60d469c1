"""Quality of students at equal bytes: a student per arm and seed, evaluated against the teacher on held-out documents.

It takes hours, in cells: each finished cell is a JSON file, and a run that was killed, or stopped by --hours, resumes.
Tables and figures use the seeds that all arms have finished. All arms share one learning rate: the best one for full
logits on the same held-out documents, which favours full logits. Seeds are paired: the same order of batches in all
arms.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.quality_cells import FULL, Cell, Results, results_of
from benchmarks.reporting import Reach, Summary, Table, show, write
from benchmarks.surroundings import describe_machine

TITLE = "Students at equal bytes"
REACH = (
    Reach("varopt_bytes_per_token", "at most", 32),
    Reach("varopt_kl_over_full", "at most", 1.01),
    Reach("varopt_kl_over_full", "at most", 1, over="topk50_kl_over_full"),
    Reach("varopt_kl_over_full", "at most", 1, over="rs12_kl_over_full"),
)
_MOST_BYTES = 32
_METRICS = ("kl", "cross_entropy", "top1_agreement", "calibration_error")
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776}


def mean_with_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its 95 % confidence interval; None for a single value."""
    if len(values) < 2:
        return values[0], None
    return mean(values), _T95[len(values) - 1] * stdev(values) / len(values) ** 0.5


def paired_ratios(runs: Mapping[str, Sequence[Mapping[str, Any]]], arm: str, over: str, key: str = "kl") -> list[float]:
    """One ratio per seed."""
    return [run[key] / reference[key] for run, reference in zip(runs[arm], runs[over], strict=True)]


def best_within(runs: Mapping[str, Sequence[Mapping[str, Any]]], sparsifier: str, most_bytes: float) -> str:
    """The arm of a sparsifier with the largest budget within so many bytes per token; else its smallest."""
    sizes = {
        arm: mean(run["bytes_per_token"] for run in seeds) for arm, seeds in runs.items() if arm.startswith(sparsifier)
    }
    within = [arm for arm, size in sizes.items() if size <= most_bytes]
    return max(within, key=sizes.__getitem__) if within else min(sizes, key=sizes.__getitem__)


def summarise(runs: Mapping[str, Sequence[Mapping[str, Any]]], learning_rate: float) -> Summary:
    """Metrics by arm with intervals over seeds, and every arm's KL over that of full logits, seed by seed."""
    chosen = best_within(runs, "varopt", _MOST_BYTES)
    over_full = {arm: mean_with_interval(paired_ratios(runs, arm, FULL)) for arm in runs}
    rows = [
        [
            arm,
            _bytes(seeds) or "",
            *(_with_interval(mean_with_interval([run[key] for run in seeds])) for key in _METRICS),
            _with_interval(over_full[arm]),
        ]
        for arm, seeds in runs.items()
    ]
    first = runs[FULL][0]
    differences = [
        [other, _with_interval(mean_with_interval(paired_ratios(runs, chosen, other)))]
        for other in runs
        if other != chosen
    ]
    return Summary(
        figures={
            "varopt_bytes_per_token": _bytes(runs[chosen]) or 0.0,
            "varopt_kl_over_full": over_full[chosen][0],
            "topk50_kl_over_full": over_full["top_k 50"][0],
            "rs12_kl_over_full": over_full["random 12 unique"][0],
        },
        tables=[
            Table(
                f"{first['tokens_seen']:,} tokens seen, {len(runs[FULL])} seeds, learning rate {learning_rate:g}",
                ["arm", "bytes/token", "KL", "cross-entropy", "agreement", "calibration error", "KL over full"],
                rows,
            ),
            Table(f"KL of {chosen} over that of the other arms, seed by seed", ["other arm", "ratio"], differences),
        ],
        plot=partial(_plot, runs),
        notes=["± is half a 95 % confidence interval over seeds; a ratio whose interval holds 1 is within noise."],
    )


def _bytes(seeds: Sequence[Mapping[str, Any]]) -> float | None:
    sizes = [run["bytes_per_token"] for run in seeds]
    return None if None in sizes else mean(sizes)


def _with_interval(value: tuple[float, float | None]) -> str:
    middle, half = value
    return f"{middle:.4f}" if half is None else f"{middle:.4f} ± {half:.4f}"


def _plot(runs: Mapping[str, Sequence[Mapping[str, Any]]], figure: Figure) -> None:
    axes = figure.subplots()
    for arm, seeds in runs.items():
        middle, half = mean_with_interval([run["kl"] for run in seeds])
        size = _bytes(seeds)
        if size is None:
            axes.axhline(middle, linestyle="--" if arm == FULL else ":", color="grey")
            axes.annotate(arm, (1, middle), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
        else:
            axes.errorbar([size], [middle], yerr=None if half is None else [half], marker="o", capsize=3)
            axes.annotate(arm, (size, middle), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.set(xscale="log", xlabel="bytes per token", ylabel="held-out KL from the teacher, nats")


def _work(results: Results, hours: float | None, jobs: int) -> None:
    """Train the unfinished cells, `jobs` at a time in processes of their own, until all are finished or time is up."""
    import benchmarks.quality_training as training

    training.Stage(results.plan).prepare()
    began, took = time.monotonic(), [0.0]
    running: dict[Future[dict[str, Any]], Cell] = {}
    with ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=training.begin_worker, initargs=(results.plan, jobs)
    ) as pool:
        while True:
            late = hours is not None and time.monotonic() - began + max(took) > hours * 3600
            waiting = [cell for cell in results.ready() if cell not in running.values()]
            for cell in [] if late else waiting[: jobs - len(running)]:
                print(f"quality: {len(results.left())} cells left, now {_name(cell)}", file=sys.stderr, flush=True)
                running[pool.submit(training.train_in_worker, cell)] = cell
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                results.write(running.pop(future), {**result, "machine": describe_machine()})
                took.append(result["seconds"])


def _name(cell: Cell) -> str:
    return f"{cell.arm}, seed {cell.seed}, learning rate {cell.learning_rate:g}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=TITLE)
    parser.add_argument("--quick", action="store_true", help="three arms beside full logits, one seed, 20,000 tokens")
    parser.add_argument("--hours", type=float, help="start no training that would not end within so many hours")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each on its share of the cores")
    options = parser.parse_args()
    os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "DO_NOT_TRACK": "1"})
    began, machine = time.perf_counter(), describe_machine()
    results = results_of(options.quick)
    _work(results, options.hours, options.jobs)
    left = results.left()
    if left:
        print(f"quality: {len(left)} cells are left; run again to go on:")
        for cell in left:
            print(f"  {_name(cell)}")
    seeds, rate = results.whole_seeds(), results.learning_rate()
    if rate is None or not seeds:
        return
    runs = {arm: [results.of(Cell(arm, seed, rate)) for seed in seeds] for arm in results.plan.arms}
    summary = summarise(runs, rate)
    command = "python -m benchmarks.quality" + (" --quick" if options.quick else "")
    record = {"benchmark": "quality", "title": TITLE, "command": command, "quick": options.quick, **machine}
    record |= {"seconds": round(time.perf_counter() - began, 1), "learning_rate": rate, "cells_left": len(left)}
    write("quality", summary, REACH, record, quick=options.quick)
    show(Console(width=140), TITLE, summary, REACH)
    if options.quick and not left:
        # A quick run measures anew each time; only one that was cut short goes on.
        shutil.rmtree(results.directory)
    print(json.dumps(summary.figures))


if __name__ == "__main__":
    main()
