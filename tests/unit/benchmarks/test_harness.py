"""The harness: interleaving, ratios, memory of a child's own, what is written and what is printed last."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import harness, reporting
from benchmarks.harness import Runs, peak_memory_mb
from benchmarks.reporting import Reach, Summary, Table, cell_text


def _plot(figure: Figure) -> None:
    figure.subplots().bar(["a", "b"], [1, 2])


SUMMARY = Summary(figures={"ratio": 0.6}, tables=[Table("speeds", ["arm", "tokens/s"], [["a", 1e6]])], plot=_plot)


def test_ratio_is_taken_within_each_round_so_that_a_slow_round_cancels() -> None:
    runs = Runs({"mine": [{"s": 2.0}, {"s": 20.0}, {"s": 2.2}], "peer": [{"s": 1.0}, {"s": 10.0}, {"s": 1.1}]})
    assert runs.ratio("s", "mine", "peer") == pytest.approx(2)
    assert runs.median("mine", "s") == 2.2
    assert runs.spread("peer", "s") == 10


def test_goal_is_met_from_its_own_side_of_the_bound() -> None:
    assert Reach("ratio", "at least", 0.5).is_met({"ratio": 0.5})
    assert not Reach("ratio", "at most", 0.5).is_met({"ratio": 0.51})
    with pytest.raises(ValueError, match="at least"):
        Reach("ratio", "about", 1)


def test_goal_may_be_a_multiple_of_another_figure() -> None:
    goal = Reach("mine", "at most", 0.8, over="theirs")
    assert goal.is_met({"mine": 0.4, "theirs": 0.5})
    assert not goal.is_met({"mine": 0.41, "theirs": 0.5})
    assert goal.text == "at most 0.8 x theirs"


def test_quick_run_leaves_the_result_of_a_full_one_alone(tmp_path: Path) -> None:
    for quick in (False, True):
        reporting.write(
            "x", SUMMARY, [Reach("ratio", "at least", 0.5)], {"quick": quick}, quick=quick, directory=tmp_path
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.png", "x.quick.json", "x.quick.png"]
    full = json.loads((tmp_path / "x.json").read_text())
    assert full["quick"] is False
    assert full["figures"] == {"ratio": 0.6}
    assert full["reach"] == [{"key": "ratio", "kind": "at least", "bound": 0.5, "over": None, "met": True}]


def test_table_says_for_every_figure_whether_its_goal_was_reached() -> None:
    console = Console(record=True, width=100, file=io.StringIO())
    reporting.show(console, "Ratios", SUMMARY, [Reach("ratio", "at least", 0.7)])
    shown = console.export_text()
    assert "1,000,000" in shown
    assert "at least 0.7" in shown
    assert "no" in shown


@pytest.mark.parametrize(
    ("cell", "text"), [(True, "True"), ("a", "a"), (1234567, "1,234,567"), (0.12345, "0.123"), (1.0034, "1.003")]
)
def test_cells_are_short(cell: object, text: str) -> None:
    assert cell_text(cell) == text


def test_peak_memory_is_of_this_process_and_not_of_its_parent() -> None:
    ballast = bytearray(200 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "from benchmarks.harness import peak_memory_mb; print(peak_memory_mb())"
    root = Path(harness.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert 10 < float(done.stdout) < 200 < peak_memory_mb()
    del ballast
