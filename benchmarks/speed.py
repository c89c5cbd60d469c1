"""The table and the plot of benchmarks that compare the speed and the peak memory of arms."""

from matplotlib.figure import Figure

from benchmarks.harness import Runs
from benchmarks.reporting import Table

_COLUMNS = ["arm", "tokens/s", "tokens per processor second", "peak MB", "slowest over fastest round"]


def speed_table(title: str, runs: Runs) -> Table:
    """A row per arm; arms measure `tokens_per_s` and `tokens_per_cpu_s`."""
    keys = ("tokens_per_s", "tokens_per_cpu_s", "peak_mb")
    rows = [[arm, *(runs.median(arm, key) for key in keys), runs.spread(arm, keys[0])] for arm in runs.of_arm]
    return Table(title, _COLUMNS, rows)


def plot_speed(runs: Runs, figure: Figure) -> None:
    """Bars of tokens per second and of peak memory."""
    labels = {"tokens_per_s": "tokens/s", "peak_mb": "peak MB"}
    for axes, (key, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        axes.bar(list(runs.of_arm), [runs.median(arm, key) for arm in runs.of_arm])
        axes.set(ylabel=label)
