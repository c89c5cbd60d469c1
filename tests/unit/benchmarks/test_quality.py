"""Cells of the benchmark of quality: what is finished is never done again, and ratios are taken seed by seed."""

from pathlib import Path

import pytest

from benchmarks.quality import best_within, mean_with_interval, paired_ratios
from benchmarks.quality_cells import FULL, Cell, Plan, Results

PLAN = Plan((FULL, "varopt 0.05"), (0, 1), (1e-3, 2e-3), tokens=100, epochs=2, held_out_targets=10)


def finish(results: Results, cell: Cell, kl: float = 1.0) -> None:
    results.write(cell, {"kl": kl, "seconds": 1.0})


def test_a_finished_cell_is_not_left_to_do(tmp_path: Path) -> None:
    results = Results(PLAN, tmp_path)
    first, *others = results.left()
    finish(results, first)
    assert results.left() == others
    assert Results(PLAN, tmp_path).left() == others


def test_a_result_of_another_plan_is_not_taken(tmp_path: Path) -> None:
    finish(Results(PLAN, tmp_path), Cell(FULL, 0, 1e-3))
    other = Results(Plan(PLAN.arms, (0,), (1e-3,), tokens=999, epochs=2, held_out_targets=10), tmp_path)
    assert other.read(Cell(FULL, 0, 1e-3)) is None


def test_learning_rate_is_settled_first_on_full_logits_and_then_used_by_all(tmp_path: Path) -> None:
    results = Results(PLAN, tmp_path)
    assert results.left()[:2] == results.tuning()
    assert results.ready() == results.tuning()
    finish(results, Cell(FULL, 0, 1e-3), kl=2.0)
    assert results.learning_rate() is None
    assert results.ready() == results.tuning()[1:]
    finish(results, Cell(FULL, 0, 2e-3), kl=1.0)
    assert results.learning_rate() == 2e-3
    assert results.ready() == results.left()
    assert [(cell.arm, cell.seed, cell.learning_rate) for cell in results.left()] == [
        ("varopt 0.05", 0, 2e-3),
        (FULL, 1, 2e-3),
        ("varopt 0.05", 1, 2e-3),
    ]


def test_only_seeds_that_every_arm_has_are_compared(tmp_path: Path) -> None:
    results = Results(PLAN, tmp_path)
    assert results.whole_seeds() == []
    while results.whole_seeds() == []:
        finish(results, results.left()[0])
    assert results.whole_seeds() == [0]
    assert [cell.seed for cell in results.left()] == [1, 1]
    with pytest.raises(KeyError, match="seed=1"):
        results.of(results.left()[0])


def test_a_cell_that_was_cut_off_while_writing_is_done_again(tmp_path: Path) -> None:
    results = Results(PLAN, tmp_path)
    cell = results.left()[0]
    (tmp_path / cell.file_name).with_suffix(".tmp").write_text("{")
    assert results.read(cell) is None


def test_ratios_are_paired_by_seed() -> None:
    runs = {"a": [{"kl": 2.0}, {"kl": 3.0}], "b": [{"kl": 1.0}, {"kl": 2.0}]}
    assert paired_ratios(runs, "a", "b") == [2.0, 1.5]


def test_interval_is_students_and_a_single_value_has_none() -> None:
    assert mean_with_interval([1.0]) == (1.0, None)
    middle, half = mean_with_interval([1.0, 2.0, 3.0])
    assert middle == 2
    assert half == pytest.approx(4.303 / 3**0.5)


def test_budget_chosen_is_the_largest_within_the_bytes() -> None:
    runs = {f"varopt {n}": [{"bytes_per_token": n}] for n in (12, 18, 40)} | {FULL: [{"bytes_per_token": None}]}
    assert best_within(runs, "varopt", 32) == "varopt 18"
    assert best_within(runs, "varopt", 5) == "varopt 12"
