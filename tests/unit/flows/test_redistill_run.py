"""Nights of new data, without Prefect: what is learned, what is promoted, and how a killed night goes on."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.capture_run import CaptureReport
from flows.distill_run import DistillReport, DistillRun
from flows.options import location_of
from flows.redistill_run import Attempt, RedistillReport, RedistillRun
from pipeline.config import Config
from storage.errors import LakeBusyError, MismatchError, SettingsError
from storage.forgetting import forget
from storage.lake import Lake
from storage.promotions import roll_back, student_of
from storage.rowsets import read_again

CaptureCall = Callable[[Config], CaptureReport]
SENTENCES = ("the cat sat on the mat", "the dog sat on the log", "a small text for a small vocabulary")


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A corpus that grows by `add`."""
    path = tmp_path / "documents.jsonl"
    add(path, 0, 30)
    return path


def add(path: Path, begin: int, end: int) -> None:
    with path.open("ab") as file:
        for number in range(begin, end):
            text = f"{SENTENCES[number % 3]} and {number} the {SENTENCES[(number + 1) % 3]}"
            file.write(orjson.dumps({"text": text}) + b"\n")


@pytest.fixture
def config(raw_config: dict[str, Any], documents: Path) -> Config:
    corpora = [{"name": "test", "kind": "jsonl", "path": str(documents)}]
    training = {"batch_sequences": 4, "precision": "fp32", "device": "cpu", "learning_rate": 1e-3}
    return Config.model_validate(raw_config | {"corpora": corpora, "training": training})


@pytest.fixture
def night(run_capture: CaptureCall) -> Callable[[Config], RedistillReport]:
    """What the flow does, without Prefect."""

    def call(config: Config) -> RedistillReport:
        with RedistillRun(config) as run:
            run.captured(run_capture(config))
            while (attempt := run.next()) is not None:
                run.decide(attempt, distilled(attempt))
        return run.report

    return call


def distilled(attempt: Attempt) -> DistillReport:
    with DistillRun(attempt.config) as run:
        if not run.known:
            run.train()
            run.evaluate()
            run.commit()
    return run.report


def worse(config: Config) -> Config:
    """Settings of a real but bad training."""
    return config.model_copy(update={"training": config.training.model_copy(update={"learning_rate": 3.0})})


def current(config: Config) -> str | None:
    with Lake.open(location_of(config)) as lake:
        return student_of(lake)


def ask(config: Config, query: str) -> list[dict[str, Any]]:
    with Lake.open(location_of(config)) as lake:
        return lake.sql(query).to_pylist()


Night = Callable[[Config], RedistillReport]


def test_three_nights_new_nothing_new_and_a_bad_training(config: Config, documents: Path, night: Night) -> None:
    first = night(config)
    assert (first.outcome, first.captured_documents, first.current) == ("promoted", 30, first.candidate)
    second = night(config)
    assert (second.outcome, second.captured_documents, second.candidate) == ("nothing new", 0, None)
    add(documents, 30, 42)
    third = night(worse(config))
    assert (third.outcome, third.captured_documents) == ("rejected", 12)
    assert third.current == first.current == current(config)
    assert third.figures is not None and third.figures["difference"] > 0.01
    decided = ask(config, "SELECT decision, figures FROM promotions ORDER BY commit_number")
    assert [row["decision"] for row in decided] == ["promoted", "rejected"]
    assert json.loads(decided[1]["figures"])["candidate"]["cross_entropy"] > 0
    fourth = night(config)
    assert fourth.outcome == "promoted", "with the old settings the same documents are learned after all"


def test_a_later_student_is_the_child_of_the_current_one_and_has_a_directory_of_its_own(
    config: Config, documents: Path, night: Night
) -> None:
    first = night(config)
    add(documents, 30, 42)
    second = night(config)
    assert second.outcome == "promoted"
    chain = ask(config, f"SELECT ancestor_id FROM lineage WHERE student_id = '{second.current}' ORDER BY depth")
    assert [row["ancestor_id"] for row in chain] == [second.current, first.current]
    directories = {path.name for path in (config.lake.path / "students").iterdir()}
    assert directories == {first.current, second.current}


def test_a_night_with_nothing_new_loads_no_torch(config: Config, night: Night) -> None:
    night(config)
    script = f"""
        import json, sys
        from flows.capture_run import CaptureRun
        from flows.redistill_run import RedistillRun
        from pipeline.config import Config
        config = Config.model_validate(json.loads({config.model_dump_json()!r}))
        with RedistillRun(config) as run:
            with CaptureRun(config) as capture:
                for number in capture.units():
                    capture.commit(capture.compute(number))
            run.captured(capture.report)
            assert run.next() is None
        print(json.dumps([name for name in ("torch", "transformers") if name in sys.modules]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stdout) == []


def test_too_little_new_waits_until_there_is_enough(config: Config, documents: Path, night: Night) -> None:
    config = config.model_copy(update={"redistill": config.redistill.model_copy(update={"min_new_documents": 10})})
    first = night(config)
    add(documents, 30, 33)
    waiting = night(config)
    assert (waiting.outcome, waiting.current) == ("waiting for more", first.current)
    assert 0 < waiting.new_documents < 10
    add(documents, 33, 50)
    assert night(config).outcome == "promoted"


def test_a_rejected_candidate_is_not_trained_again(config: Config, documents: Path, night: Night) -> None:
    night(config)
    add(documents, 30, 42)
    rejected = night(worse(config))
    again = night(worse(config))
    assert (rejected.outcome, again.outcome) == ("rejected", "decided before")
    assert len(ask(config, "SELECT * FROM promotions")) == 2


def test_a_student_that_was_rolled_back_is_not_promoted_again_by_itself(
    config: Config, documents: Path, night: Night
) -> None:
    first = night(config)
    add(documents, 30, 42)
    night(config)
    with Lake.open(location_of(config), read_only=False) as lake:
        roll_back(lake, run_id="by hand")
    assert night(config).outcome == "decided before"
    assert current(config) == first.current


@pytest.mark.parametrize("stage", ["planned", "trained", "evaluated", "committed"])
def test_a_night_that_was_stopped_goes_on_with_the_same_candidate_whatever_has_arrived_since(
    config: Config, documents: Path, night: Night, run_capture: CaptureCall, stage: str
) -> None:
    night(config)
    add(documents, 30, 42)
    with pytest.raises(KeyboardInterrupt), RedistillRun(config) as run:
        run.captured(run_capture(config))
        attempt = run.next()
        assert attempt is not None
        with DistillRun(attempt.config) as training:
            for name, step in (
                ("trained", training.train),
                ("evaluated", training.evaluate),
                ("committed", training.commit),
            ):
                if stage == "planned":
                    break
                step()
                if name == stage:
                    break
        raise KeyboardInterrupt
    add(documents, 42, 60)
    report = night(config)
    assert (report.promoted, report.rejected) == (2, 0), "the one that was planned, then one for what came since"
    decided = ask(config, "SELECT student_id FROM promotions ORDER BY commit_number")
    assert [row["student_id"] for row in decided][1] == attempt.candidate.student_id
    assert len({row["student_id"] for row in decided}) == len(decided) == 3
    trained = ask(config, "SELECT student_id, count(*) AS n FROM store.students GROUP BY ALL")
    assert [row["n"] for row in trained] == [1, 1, 1]


def test_what_was_planned_with_other_settings_is_left_alone(
    config: Config, documents: Path, night: Night, run_capture: CaptureCall
) -> None:
    night(config)
    add(documents, 30, 42)
    with pytest.raises(KeyboardInterrupt), RedistillRun(worse(config)) as run:
        run.captured(run_capture(config))
        planned = run.next()
        raise KeyboardInterrupt
    report = night(config)
    assert report.outcome == "promoted"
    assert planned is not None and report.candidate != planned.candidate.student_id


def test_the_row_set_of_a_student_can_be_read_again_less_what_was_forgotten(
    config: Config, documents: Path, night: Night
) -> None:
    night(config)
    add(documents, 30, 42)
    report = night(config)
    with Lake.open(location_of(config), read_only=False) as lake:
        found = lake.row("SELECT row_set_id FROM students WHERE student_id = ?", [report.current])
        before = read_again(lake, found["row_set_id"])
        assert (before.n_missing, before.rows.row_set_id) == (0, found["row_set_id"])
        seen = lake.row("SELECT doc_id FROM documents WHERE commit_number <= 5 AND NOT held_out")["doc_id"]
        forgotten = forget(lake, [seen], reason="asked")
        assert report.before in forgotten.student_ids and report.current in forgotten.student_ids


def test_two_nights_at_once_are_refused_by_name(config: Config) -> None:
    with RedistillRun(config), pytest.raises(LakeBusyError, match="another redistill is running"), RedistillRun(config):
        pass


def test_without_held_out_documents_nothing_is_trained_that_could_not_be_compared(
    config: Config, documents: Path, night: Night
) -> None:
    lake = config.lake.model_copy(update={"held_out": config.lake.held_out.model_copy(update={"share": 0.0})})
    config = config.model_copy(update={"lake": lake})
    assert night(config).outcome == "promoted"
    add(documents, 30, 42)
    with pytest.raises(SettingsError, match="held-out"):
        night(config)


def test_another_tokenizer_asks_for_an_alias_of_its_own(
    config: Config, documents: Path, night: Night, run_capture: CaptureCall
) -> None:
    night(config)
    with Lake.open(location_of(config), read_only=False) as lake:
        lake.connection.execute('UPDATE store.recipes SET recipe = json_merge_patch(recipe, \'{"tokenizer": "old"}\')')
    other = config.model_copy(update={"target": config.target.model_copy(update={"seed": 1})})
    with pytest.raises(MismatchError, match=r"redistill\.alias"):
        night(other)


def test_a_first_student_needs_to_come_from_somewhere(config: Config) -> None:
    with pytest.raises(SettingsError, match=r"student\.layers"):
        RedistillRun(config.model_copy(update={"student": None}))
