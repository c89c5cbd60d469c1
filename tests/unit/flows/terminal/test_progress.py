"""What a log has in place of a bar, and how far a capture says it is."""

import logging

import pytest

from logitlake.flows.reports import CaptureReport
from logitlake.flows.runtime.pace import Pace, TrainingPace
from logitlake.flows.terminal.progress import LoggedBar, progress_bar, watched

REPORT = CaptureReport(
    run_id="run",
    recipe_id="r",
    teacher="t",
    n_units=2,
    n_documents=5,
    n_tokens=1000,
    n_bytes=20_000,
    teacher_seconds=10,
)


def test_a_log_has_a_line_of_names_and_values(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bar = LoggedBar("verify", 40, "units", seconds_between=0)
    bar.advance(10)
    (line,) = caplog.messages
    title, *pairs = line.split()
    named = dict(pair.split("=") for pair in pairs)
    assert title == "verify"
    assert (named["units"], named["total"]) == ("10", "40")
    assert float(named["per_second"]) > 0
    assert float(named["remaining_seconds"]) >= 0


def test_what_is_done_at_once_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(watched(range(1000), "verify", total=1000, unit="units")) == list(range(1000))
    with progress_bar("teacher", logged=False) as bar:
        bar.advance(3)
        bar.expect(5)
        bar.reach(4, 5)
    assert capsys.readouterr() == ("", "")


def test_a_bar_without_a_total_has_no_remaining_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bar = LoggedBar("planning", None, "tokens", seconds_between=0)
    bar.advance(10)
    assert "remaining" not in caplog.messages[-1]
    bar.expect(20)
    bar.advance(5)
    assert "tokens=15 total=20" in caplog.messages[-1]


def test_a_capture_says_what_is_committed_and_what_is_left() -> None:
    pace = Pace(REPORT, planned_tokens=4000)
    assert pace.line() == (
        "committed units=2 documents=5 tokens=1000 planned_tokens=4000 bytes=20000 tokens_per_second=100 "
        "remaining_seconds=30"
    )
    assert pace.share == 0.25
    assert pace.words() == "1,000 of 4,000 tokens, 20.0 kB committed, 100 tokens/s, about 30 s left"


def test_while_the_plan_is_not_counted_a_capture_says_no_remaining_time() -> None:
    pace = Pace(REPORT, planned_tokens=None)
    assert (pace.share, pace.remaining_seconds) == (0.0, None)
    assert "remaining" not in pace.line()
    assert "left" not in pace.words()


def test_a_training_that_is_resumed_is_judged_by_its_own_steps() -> None:
    now = [100.0]
    pace = TrainingPace(clock=lambda: now[0])
    pace.reach(40, 100)
    assert pace.line(2.5) == "trained steps=40 total=100 loss=2.5000"
    now[0] = 130.0
    pace.reach(50, 100)
    assert pace.line(2.25) == "trained steps=50 total=100 loss=2.2500 remaining_seconds=150"
    assert pace.words(2.25) == "step 50 of 100, loss 2.2500, about 2 min 30 s left"
