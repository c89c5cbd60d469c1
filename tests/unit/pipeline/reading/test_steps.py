import numpy as np
import pytest

from logitlake.pipeline.reading.steps import EvenSteps, Position, StepsOfSequences, ends_of_whole_steps


def chat_rows(count, seed=0):
    """Targets of rows of very different lengths, some of which have none."""
    rng = np.random.default_rng(seed)
    return np.minimum(rng.geometric(0.01, count), 512) * (rng.random(count) > 0.1)


def even(rows, n_steps):
    return EvenSteps(n_steps=n_steps, n_rows=len(rows), n_targets=int(rows.sum()))


def test_steps_hold_the_same_number_of_targets_to_within_a_row():
    rows = chat_rows(5000)
    steps = EvenSteps.of(4096, n_rows=5000, n_tokens=3 * int(rows.sum()), n_targets=int(rows.sum()))
    assert steps.n_steps == round(3 * int(rows.sum()) / 4096)
    targets = np.bincount(steps.numbers(rows.tolist(), Position()), weights=rows)
    assert len(targets) == steps.n_steps
    assert np.abs(targets - rows.sum() / steps.n_steps).max() <= 512


@pytest.mark.parametrize("n_steps", [1, 2, 7, 39, 40])
def test_no_step_is_without_rows_however_uneven_they_are(n_steps):
    for seed in range(20):
        rows = chat_rows(40, seed)
        rows[seed % 40] = 100_000
        numbers = even(rows, n_steps).numbers(rows.tolist(), Position())
        assert sorted(set(numbers)) == list(range(n_steps))
        assert numbers == sorted(numbers)


def test_a_step_is_never_asked_to_be_shorter_than_a_row():
    assert EvenSteps.of(1, n_rows=5, n_tokens=100, n_targets=90).n_steps == 5
    assert EvenSteps.of(1000, n_rows=5, n_tokens=100, n_targets=0).numbers([0] * 5, Position()) == [0] * 5


def test_an_estimate_of_the_targets_that_is_wrong_leaves_no_step_empty():
    rows = chat_rows(100)
    for factor in (0.3, 3):
        steps = EvenSteps(n_steps=10, n_rows=100, n_targets=int(rows.sum() * factor))
        assert set(steps.numbers(rows.tolist(), Position())) == set(range(10))


@pytest.mark.parametrize("steps", [even(chat_rows(300), 23), StepsOfSequences(sequences=14, n_rows=300)])
def test_steps_are_the_same_when_rows_come_in_parts(steps):
    rows = chat_rows(300).tolist()
    whole = steps.numbers(rows, Position())
    found, start, waiting = [], Position(), []
    for begin in range(0, 300, 37):
        waiting += rows[begin : begin + 37]
        done = 0
        for end in ends_of_whole_steps(steps.numbers(waiting, start)):
            found += [start.step] * (end - done)
            start = start.after(waiting[done:end])
            done = end
        waiting = waiting[done:]
    assert found + [start.step] * len(waiting) == whole
