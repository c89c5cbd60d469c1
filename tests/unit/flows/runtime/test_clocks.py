"""A clock that is wrong, set back or in another time zone changes no row set, no decision and no file."""

import importlib
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import orjson
import pytest

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.distill.job import StudentJob
from logitlake.flows.distill.run import DistillRun
from logitlake.flows.maintain.run import MaintainRun
from logitlake.flows.redistill.run import RedistillRun
from logitlake.flows.reports import DistillReport, MaintainReport, RedistillReport
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.lake.lake import Lake
from logitlake.storage.students.promotions import student_of

READERS_OF_CLOCKS = (
    *(
        "logitlake.flows.run_ids",
        "logitlake.flows.maintain.run",
        "logitlake.storage.writing.commits",
    ),
    *(
        "logitlake.storage.upkeep.forgetting",
        "logitlake.storage.students.promotions",
        "logitlake.storage.writing.recipes",
        "logitlake.storage.writing.runs",
        "logitlake.storage.writing.sightings",
        "logitlake.storage.students.registry",
        "logitlake.storage.row_sets.registered",
        "logitlake.storage.upkeep.sweeping",
    ),
)


class Clock(datetime):
    """The machine's clock, wrong by `error`."""

    error = timedelta(0)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + cls.error


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Clock]]:
    for name in READERS_OF_CLOCKS:
        monkeypatch.setattr(importlib.import_module(name), "datetime", Clock)
    yield Clock
    Clock.error = timedelta(0)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the time zone of the process."""

    def call(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield call
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def config(config: Config, tmp_path: Path) -> Config:
    """Settings whose corpus grows by `add`."""
    corpus = config.corpora[0].model_copy(update={"path": str(tmp_path / "documents.jsonl")})
    training = config.training.model_copy(update={"learning_rate": 1e-3})
    return config.model_copy(update={"corpora": (corpus,), "training": training})


def add(config: Config, begin: int, end: int) -> None:
    with Path(config.corpora[0].path).open("ab") as file:
        for number in range(begin, end):
            file.write(orjson.dumps({"text": f"the cat {number} sat on the mat and the dog {number * 7} on the log"}))
            file.write(b"\n")


def distilled(config: Config, job: StudentJob) -> DistillReport:
    with DistillRun(config, job) as run:
        if not run.student_exists:
            run.train()
            run.evaluate()
            run.commit()
    return run.report


def night(config: Config, in_the_middle: Callable[[], None] = lambda: None) -> RedistillReport:
    with RedistillRun(config) as run:
        with CaptureRun(config) as capture:
            for number in capture.units():
                capture.commit(capture.compute(number))
        run.captured(capture.report)
        while (attempt := run.next()) is not None:
            in_the_middle()
            run.decide(attempt, distilled(config, attempt.job))
    return run.report


def upkeep(config: Config) -> MaintainReport:
    with MaintainRun(config) as run:
        run.verify()
        run.merge()
        run.sweep()
    return run.report


def ask(config: Config, query: str) -> list[dict[str, Any]]:
    with Lake.open(location_of(config)) as lake:
        return lake.sql(query).to_pylist()


@pytest.mark.slow
def test_nights_go_on_in_their_order_while_the_clock_goes_back_and_the_machine_travels(
    config: Config, clock: type[Clock], zone: Callable[[str], None]
) -> None:
    zone("Pacific/Kiritimati")
    add(config, 0, 30)
    first = night(config)

    def a_year_back() -> None:
        clock.error = timedelta(days=-365)

    zone("America/Los_Angeles")
    add(config, 30, 50)
    second = night(config, a_year_back)
    assert [first.outcome, second.outcome] == ["promoted", "promoted"]
    assert (second.captured_documents, second.before) == (20, first.current)
    assert night(config).outcome == "nothing new"
    clock.error = timedelta(days=-700)
    add(config, 50, 70)
    third = night(config)
    assert (third.outcome, third.captured_documents, third.before) == ("promoted", 20, second.current)
    clock.error = timedelta(days=3000)
    assert night(config).outcome == "nothing new"
    with Lake.open(location_of(config)) as lake:
        assert student_of(lake) == third.current
    line = ask(config, f"SELECT ancestor_id FROM lineage WHERE student_id = '{third.current}' ORDER BY depth")
    assert [row["ancestor_id"] for row in line] == [third.current, second.current, first.current]
    assert ask(config, "SELECT count(*) - count(DISTINCT doc_id) AS twice FROM documents") == [{"twice": 0}]
    assert {row["status"] for row in ask(config, "SELECT status FROM runs WHERE kind = 'redistill'")} == {"finished"}


@pytest.mark.slow
def test_upkeep_removes_nothing_early_because_the_clock_was_set_back_or_the_zone_is_another(
    config: Config, clock: type[Clock], zone: Callable[[str], None]
) -> None:
    add(config, 0, 30)
    night(config)
    shards = set((config.lake.path / "data").rglob("store/sequences/**/*.parquet"))
    for error, name in ((-30, "Pacific/Kiritimati"), (-1, "America/Los_Angeles"), (0, "Asia/Kolkata")):
        clock.error = timedelta(days=error)
        zone(name)
        report = upkeep(config)
        assert (report.expired_files, report.orphaned_files) == (0, 0)
        assert shards <= set((config.lake.path / "data").rglob("store/sequences/**/*.parquet"))
