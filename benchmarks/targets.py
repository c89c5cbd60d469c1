"""Every sparsifier at several budgets: what it stores, how far from the teacher it is, and the gradient that it makes.

Bytes are those of a whole shard: input ids, targets, statistics, footer. Noise is E‖p̂ - p‖², bias an unbiased estimate
of ‖E p̂ - p‖² from independent draws, angle and norm those of the demo student's gradient against the gradient of full
distributions on held-out positions. Truncations are renormalised, as training does.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from benchmarks.captured import captured_lake
from benchmarks.estimates import value_at
from benchmarks.gradients import HeldOutGradient
from benchmarks.harness import Arm, Benchmark, Runs, run
from benchmarks.peers.measured import measure_peers
from benchmarks.peers.rs_kd import PUBLISHED_BYTES
from benchmarks.reporting import Reach, Summary, Table
from benchmarks.target_measures import measure
from benchmarks.target_sample import GRADIENT_POSITIONS, RS12, kept_draws, target_sample

DEFAULT = "varopt 0.05"
_THRESHOLDS = (0.1, 0.07, 0.05, 0.035, 0.02, 0.01)
_COLUMNS = [
    "target",
    "entries",
    "bytes/token",
    "noise",
    "± noise",
    "bias²",
    "± bias²",
    "rounding KL",
    "angle °",
    "norm",
]


def prepare(quick: bool) -> None:
    """The lake, the teacher's hidden states, the demo's student, the full gradient, and how often RS-KD draws."""
    captured_lake()
    target_sample(quick)
    HeldOutGradient(GRADIENT_POSITIONS).full()
    kept_draws(quick)


def _arms(quick: bool) -> Mapping[str, Arm]:
    thresholds = _THRESHOLDS[1:3] if quick else _THRESHOLDS
    names = [f"varopt {threshold:g}" for threshold in thresholds]
    names += [RS12, "top_k 50"] if quick else [RS12, "random 25", "random 50", "random 100"]
    names += [] if quick else ["top_k 12", "top_k 50", "top_k 128", "top_p 0.9"]
    return {name: Arm(partial(measure, name, quick)) for name in names} | {"peers": Arm(partial(measure_peers, quick))}


def summarise(runs: Runs, quick: bool) -> Summary:
    """Tables of our arms and of the peers, noise over bytes as a plot."""
    arms = {name: measured[0] for name, measured in runs.of_arm.items() if name != "peers"}
    peers = runs.of_arm["peers"][0]
    rs12, default = arms[RS12], arms[DEFAULT]
    curve = [(arm["noise"], arm["bytes_per_token"]) for name, arm in arms.items() if name.startswith("varopt")]
    at_rs12 = value_at(rs12["noise"], curve)
    rows = [_row(name, arm) for name, arm in arms.items()]
    published = [
        [label, peers["bytes_per_target"][label], peers["noise"][label]] for label in peers["bytes_per_target"]
    ]
    published.append([f"RS-KD as published, {kept_draws(quick)} draws", PUBLISHED_BYTES, rs12["noise"]])
    figures = {
        "varopt_bytes_per_token": default["bytes_per_token"],
        "varopt_noise": default["noise"],
        "varopt_bias_z": default["squared_bias"] / default["squared_bias_error"],
        "varopt_angle_deg": default["angle_deg"],
        "bytes_at_rs12_noise": at_rs12,
        "rs12_noise": rs12["noise"],
        "rs12_angle_deg": rs12["angle_deg"],
        "topk50_angle_deg": arms["top_k 50"]["angle_deg"],
    }
    return Summary(
        figures=figures,
        tables=[
            Table("Targets of logitlake; bytes of the whole shard", _COLUMNS, rows),
            Table("Published layouts; bytes of the targets alone", ["layout", "bytes/target", "noise"], published),
        ],
        plot=partial(_plot, arms, published),
        notes=[
            f"{RS12}: {kept_draws(quick)} draws. Bias² may come out below 0 by chance: it is an estimate without bias."
        ],
    )


def _row(name: str, arm: Mapping[str, Any]) -> list[Any]:
    keys = ("entries", "bytes_per_token", "noise", "noise_error", "squared_bias", "squared_bias_error", "rounding_kl")
    values = [arm[key] for key in (*keys, "angle_deg", "norm_ratio")]
    return [name, *("" if value is None else value for value in values)]


def _plot(arms: Mapping[str, Mapping[str, Any]], peers: list[list[Any]], figure: Figure) -> None:
    axes = figure.subplots()
    for sparsifier, marker in (("varopt", "o"), ("random", "s"), ("top_k", "^"), ("top_p", "v")):
        points = sorted((a["bytes_per_token"], a["noise"]) for name, a in arms.items() if name.startswith(sparsifier))
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, label=f"logitlake {sparsifier}")
    for label, size, noise in peers:
        axes.plot([size], [noise], marker="x", linestyle="", label=label)
    axes.set(xscale="log", yscale="log", xlabel="bytes per token", ylabel="noise E‖p̂ - p‖²")
    axes.legend(fontsize=7)


BENCHMARK = Benchmark(
    name="targets",
    title="Sparse targets: bytes, noise, bias and gradients",
    arms=_arms,
    prepare=prepare,
    summarise=summarise,
    reach=(
        Reach("varopt_bytes_per_token", "at most", 20),
        Reach("varopt_noise", "at most", 0.8, over="rs12_noise"),
        Reach("varopt_bias_z", "at most", 3),
        Reach("varopt_bias_z", "at least", -3),
        Reach("varopt_angle_deg", "at most", 1, over="rs12_angle_deg"),
        Reach("varopt_angle_deg", "at most", 0.2, over="topk50_angle_deg"),
        Reach("bytes_at_rs12_noise", "at most", 18),
    ),
    rounds=1,
    quick_rounds=1,
)

if __name__ == "__main__":
    run(BENCHMARK)
