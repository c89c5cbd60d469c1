"""A curve of bounded size that leaves no step out."""

import pytest

from logitlake.pipeline.training.distillation_trainer import logging_steps, training_curve


def test_every_loss_of_a_short_training_is_kept() -> None:
    history = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0}, {"train_runtime": 1.0, "step": 2}]
    assert training_curve(history) == [[1, 4.0], [2, 3.0]]


def test_a_long_training_is_thinned_by_means_over_steps() -> None:
    history = [{"step": 10 * (n + 1), "loss": float(n)} for n in range(1001)]
    curve = training_curve(history, points=200)
    assert len(curve) <= 200
    assert curve[0] == [60, 2.5]
    assert curve[-1][0] == 10_010
    weights = [step - before for (step, _), (before, _) in zip(curve, [[0, 0.0], *curve[:-1]], strict=True)]
    assert sum(w * loss for w, (_, loss) in zip(weights, curve, strict=True)) / 10_010 == pytest.approx(500.0)


def test_a_training_that_logged_nothing_has_no_curve() -> None:
    assert training_curve([{"train_runtime": 1.0, "step": 3}]) == []


@pytest.mark.parametrize(("steps", "expected"), [(0, 1), (7, 1), (62, 1), (200, 4), (500, 10), (10**6, 10)])
def test_losses_are_taken_often_enough_to_see_a_short_training(steps: int, expected: int) -> None:
    assert logging_steps(steps) == expected
