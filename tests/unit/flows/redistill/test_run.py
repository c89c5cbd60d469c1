"""Nights of new data, without Prefect: what is learned, what is promoted, and how a killed night goes on."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import orjson
import pytest
from safetensors.torch import load_file, save_file

from logitlake.flows.distill.run import DistillRun
from logitlake.flows.redistill.run import Attempt, RedistillRun
from logitlake.flows.reports import DistillReport, RedistillReport
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LakeBusyError, MismatchError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.registered import read_again
from logitlake.storage.students.promotions import roll_back, student_of
from logitlake.storage.upkeep.forgetting import forget, retire_recipe
from tests.tiny_lake import append_documents, capture_all, tiny_settings


def config_in(directory: Path, teacher: Path) -> Config:
    corpus = directory / "documents.jsonl"
    return Config.model_validate(tiny_settings(directory, teacher, corpus, learning_rate=1e-3))


@pytest.fixture(scope="session")
def first_night(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, _own_cache: None) -> Path:
    """A directory in which the first night is over."""
    directory = tmp_path_factory.mktemp("first")
    append_documents(directory / "documents.jsonl", 0, 30)
    assert play(config_in(directory, tiny_teacher)).outcome == "promoted"
    return directory


@pytest.fixture
def config(tmp_path: Path, tiny_teacher: Path, first_night: Path) -> Config:
    """Settings for a copy of the lake after its first night; the corpus grows by `add`."""
    shutil.copytree(first_night, tmp_path, dirs_exist_ok=True)
    return config_in(tmp_path, tiny_teacher)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return tmp_path / "documents.jsonl"


def play(config: Config) -> RedistillReport:
    """What the flow does, without Prefect."""
    with RedistillRun(config) as run:
        run.captured(capture_all(config))
        while (attempt := run.next()) is not None:
            run.decide(attempt, distilled(config, attempt))
    return run.report


def distilled(config: Config, attempt: Attempt) -> DistillReport:
    with DistillRun(config, attempt.job) as run:
        if not run.student_exists:
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


def test_three_nights_new_nothing_new_and_a_bad_training(config: Config, documents: Path) -> None:
    first = current(config)
    assert first is not None
    second = play(config)
    assert (second.outcome, second.captured_documents, second.candidate) == ("nothing new", 0, None)
    append_documents(documents, 30, 42)
    third = play(worse(config))
    assert (third.outcome, third.captured_documents) == ("rejected", 12)
    assert third.current == first == current(config)
    assert third.figures is not None and third.figures["difference"] > 0.01
    decided = ask(config, "SELECT decision, figures FROM promotions ORDER BY commit_number")
    assert [row["decision"] for row in decided] == ["promoted", "rejected"]
    assert json.loads(decided[1]["figures"])["candidate"]["cross_entropy"] > 0
    fourth = play(config)
    assert fourth.outcome == "promoted", "with the old settings the same documents are learned after all"


@pytest.mark.slow
def test_a_later_student_is_the_child_of_the_current_one_and_has_a_directory_of_its_own(
    config: Config, documents: Path
) -> None:
    first = current(config)
    append_documents(documents, 30, 42)
    second = play(config)
    assert second.outcome == "promoted"
    chain = ask(config, f"SELECT ancestor_id FROM lineage WHERE student_id = '{second.current}' ORDER BY depth")
    assert [row["ancestor_id"] for row in chain] == [second.current, first]
    directories = {path.name for path in (config.lake.path / "students").iterdir()}
    assert directories == {first, second.current}


@pytest.mark.slow
def test_a_student_that_goes_on_may_have_a_learning_rate_of_its_own(config: Config, documents: Path) -> None:
    append_documents(documents, 30, 42)
    redistill = config.redistill.model_copy(update={"learning_rate": 3.0})
    report = play(config.model_copy(update={"redistill": redistill}))
    assert report.outcome == "rejected", "it was used"
    other = redistill.model_copy(update={"alias": "other"})
    first = play(config.model_copy(update={"redistill": other}))
    settings = json.loads(
        ask(config, f"SELECT settings FROM students WHERE student_id = '{first.current}'")[0]["settings"]
    )
    assert settings["training"]["learning_rate"] == config.training.learning_rate, "the first one has no such rate"


def test_a_night_with_nothing_new_loads_no_torch(config: Config) -> None:
    script = f"""
        import json, sys
        from logitlake.flows.capture.run import CaptureRun
        from logitlake.flows.redistill.run import RedistillRun
        from logitlake.pipeline.settings.models import Config
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


@pytest.mark.slow
def test_too_little_new_waits_until_there_is_enough(config: Config, documents: Path) -> None:
    config = config.model_copy(update={"redistill": config.redistill.model_copy(update={"min_new_documents": 10})})
    first = current(config)
    append_documents(documents, 30, 33)
    waiting = play(config)
    assert (waiting.outcome, waiting.current) == ("waiting for more", first)
    assert 0 < waiting.new_documents < 10
    append_documents(documents, 33, 50)
    assert play(config).outcome == "promoted"


@pytest.mark.slow
def test_a_rejected_candidate_is_not_trained_again(config: Config, documents: Path) -> None:
    append_documents(documents, 30, 42)
    rejected = play(worse(config))
    again = play(worse(config))
    assert (rejected.outcome, again.outcome) == ("rejected", "decided before")
    assert len(ask(config, "SELECT * FROM promotions")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
def test_a_training_that_diverged_is_rejected_and_the_lake_can_still_be_asked(
    config: Config, documents: Path, exact: bool
) -> None:
    first = current(config)
    append_documents(documents, 30, 42)
    training = config.training.model_copy(update={"learning_rate": 1e38})
    evaluation = config.evaluation.model_copy(update={"teacher": exact})
    report = play(config.model_copy(update={"training": training, "evaluation": evaluation}))
    assert (report.outcome, report.current) == ("rejected", first)
    assert "not finite" in report.reason
    assert ask(
        config, f"SELECT metrics ->> '$.after.kl' AS kl FROM students WHERE student_id = '{report.candidate}'"
    ) == [{"kl": None}]
    assert ask(config, "SELECT json_valid(detail) AS whole FROM store.run_events GROUP BY ALL") == [{"whole": True}]
    assert play(config).outcome == "promoted", "the next night learns from the current one"


@pytest.mark.slow
def test_a_student_that_was_rolled_back_is_not_promoted_again_by_itself(config: Config, documents: Path) -> None:
    first = current(config)
    append_documents(documents, 30, 42)
    play(config)
    with Lake.open(location_of(config), read_only=False) as lake:
        roll_back(lake, expected=student_of(lake), run_id="by hand")
    assert play(config).outcome == "decided before"
    assert current(config) == first


@pytest.mark.parametrize(
    "stage",
    ["committed", *(pytest.param(name, marks=pytest.mark.slow) for name in ("planned", "trained", "evaluated"))],
)
def test_a_night_that_was_stopped_goes_on_with_the_same_candidate_whatever_has_arrived_since(
    config: Config, documents: Path, stage: str
) -> None:
    append_documents(documents, 30, 42)
    with pytest.raises(KeyboardInterrupt), RedistillRun(config) as run:
        run.captured(capture_all(config))
        attempt = run.next()
        assert attempt is not None
        with DistillRun(config, attempt.job) as training:
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
    append_documents(documents, 42, 60)
    report = play(config)
    assert (report.promoted, report.rejected) == (2, 0), "the one that was planned, then one for what came since"
    decided = ask(config, "SELECT student_id FROM promotions ORDER BY commit_number")
    assert [row["student_id"] for row in decided][1] == attempt.candidate.student_id
    assert len({row["student_id"] for row in decided}) == len(decided) == 3
    trained = ask(config, "SELECT student_id, count(*) AS n FROM store.students GROUP BY ALL")
    assert [row["n"] for row in trained] == [1, 1, 1]


@pytest.mark.slow
def test_what_was_planned_with_other_settings_is_left_alone(config: Config, documents: Path) -> None:
    append_documents(documents, 30, 42)
    with pytest.raises(KeyboardInterrupt), RedistillRun(worse(config)) as run:
        run.captured(capture_all(config))
        planned = run.next()
        raise KeyboardInterrupt
    report = play(config)
    assert report.outcome == "promoted"
    assert planned is not None and report.candidate != planned.candidate.student_id


@pytest.mark.slow
def test_a_changed_teacher_is_another_recipe_beside_the_old_one_until_that_is_retired(
    config: Config, tiny_teacher: Path, tmp_path: Path
) -> None:
    first = current(config)
    shutil.copytree(tiny_teacher, tmp_path / "other")
    weights = tmp_path / "other" / "model.safetensors"
    save_file({name: 1.01 * tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    teacher = config.teacher.model_copy(update={"model": str(tmp_path / "other")})  # type: ignore[union-attr]
    report = play(config.model_copy(update={"teacher": teacher}))
    assert (report.captured_documents, report.before) == (30, first), "everything is captured anew"
    assert report.candidate is not None and report.promoted + report.rejected == 1
    held = ask(config, "SELECT recipe_id, count(*) AS n FROM documents GROUP BY ALL")
    assert [row["n"] for row in held] == [30, 30]
    assert play(config).outcome in ("nothing new", "decided before"), "the old one is as it was"
    (old,) = {row["recipe_id"] for row in held} - {report.recipe_id}
    with Lake.open(location_of(config), read_only=False) as lake:
        assert retire_recipe(lake, old) > 0
        row_set = lake.row("SELECT row_set_id FROM students WHERE student_id = ?", [report.candidate])["row_set_id"]
        assert read_again(lake, row_set).n_missing == 0
    assert {row["recipe_id"] for row in ask(config, "SELECT recipe_id FROM documents")} == {report.recipe_id}


@pytest.mark.slow
def test_the_row_set_of_a_student_can_be_read_again_less_what_was_forgotten(config: Config, documents: Path) -> None:
    append_documents(documents, 30, 42)
    report = play(config)
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


@pytest.mark.slow
def test_without_held_out_documents_nothing_is_trained_that_could_not_be_compared(
    config: Config, documents: Path
) -> None:
    held_out = config.lake.held_out.model_copy(update={"share": 0.0})
    lake = config.lake.model_copy(update={"held_out": held_out, "path": config.lake.path.with_name("other")})
    config = config.model_copy(update={"lake": lake})
    assert play(config).outcome == "promoted"
    append_documents(documents, 30, 42)
    with pytest.raises(SettingsError, match="held-out"):
        play(config)


@pytest.mark.slow
def test_another_tokenizer_asks_for_an_alias_of_its_own(config: Config) -> None:
    with Lake.open(location_of(config), read_only=False) as lake:
        lake.connection.execute('UPDATE store.recipes SET recipe = json_merge_patch(recipe, \'{"tokenizer": "old"}\')')
    other = config.model_copy(update={"target": config.target.model_copy(update={"seed": 1})})
    with pytest.raises(MismatchError, match=r"redistill\.alias"):
        play(other)


def test_a_first_student_needs_to_come_from_somewhere(config: Config) -> None:
    with pytest.raises(SettingsError, match=r"student\.layers"):
        RedistillRun(config.model_copy(update={"student": None}))


def test_a_night_without_a_directory_for_students_is_refused_before_its_capture(config: Config) -> None:
    """With a catalog on a server there is no directory beside it. No server is asked: the settings are enough."""
    lake = config.lake.model_copy(update={"catalog": "postgres:host=127.0.0.1 port=9 dbname=none", "data": "s3://b/p/"})
    with pytest.raises(SettingsError, match=r"redistill\.students: expected a directory"):
        RedistillRun(config.model_copy(update={"lake": lake}))
