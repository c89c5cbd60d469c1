"""One execution of the student flow, without Prefect: trained once, measured, registered, known afterwards."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from transformers import LlamaConfig

from logitlake.flows.distill.run import DistillRun
from logitlake.flows.reports import CaptureReport, DistillReport
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.answers.listings import ancestry
from logitlake.storage.errors import LakeError, MismatchError, SettingsError
from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE
from logitlake.storage.lake.lake import Lake
from logitlake.storage.students.registry import find_student


@pytest.fixture
def on_filled(filled: Any, tmp_path: Path) -> Config:
    """Settings over a copy of the filled lake, with a student in the test's own directory."""
    shutil.copytree(filled.config.lake.path, tmp_path / "lake")
    lake = filled.config.lake.model_copy(update={"path": tmp_path / "lake"})
    training = filled.config.training.model_copy(update={"output": tmp_path / "student"})
    config: Config = filled.config.model_copy(update={"lake": lake, "training": training})
    return config


def distilled(config: Config) -> DistillReport:
    with DistillRun(config) as run:
        if not run.student_exists:
            run.train()
            run.evaluate()
            run.commit()
    return run.report


def test_a_student_is_trained_measured_and_known_afterwards(on_filled: Config) -> None:
    first = distilled(on_filled)
    assert first.trained
    assert set(first.metrics) >= {"train", "before", "after", "teacher"}
    assert first.metrics["after"]["kl"] < first.metrics["before"]["kl"]
    assert first.metrics["teacher"]["kl"] == 0
    with Lake.open(location_of(on_filled)) as lake:
        known = find_student(lake, first.student_id[:8])
        line = ancestry(lake, first.student_id).to_pylist()
        losses = lake.sql("SELECT * FROM student_losses").to_pylist()
        held_out = lake.sql("SELECT DISTINCT doc_id FROM sequences WHERE held_out")["doc_id"].to_pylist()
    assert known["metrics"] == first.metrics
    assert line[0]["row_set_id"] == first.row_set_id
    assert {row["doc_id"] for row in losses} == set(held_out)
    assert {(row["student_id"], row["exact"], row["held_out"]) for row in losses} == {(first.student_id, True, True)}
    n_targets = [row["n_targets"] for row in losses]
    mean = sum(row["student_loss"] * n for row, n in zip(losses, n_targets, strict=True)) / sum(n_targets)
    assert mean == pytest.approx(first.metrics["after"]["cross_entropy"])
    again = distilled(on_filled)
    assert (again.trained, again.student_id, again.metrics) == (False, first.student_id, first.metrics)


@pytest.mark.slow
def test_a_student_that_is_not_read_again_as_it_was_trained_is_not_registered(
    on_filled: Config, monkeypatch: Any
) -> None:
    """As if transformers wrote another config than the model has: found by the logits, before anything is known."""
    save = LlamaConfig.save_pretrained

    def save_another(config: Any, directory: Any, **options: Any) -> None:
        save(config, directory, **options)
        path = Path(directory) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 0.1}))

    monkeypatch.setattr(LlamaConfig, "save_pretrained", save_another)
    with pytest.raises(MismatchError, match=r"student [0-9a-f]{12}: .* mean KL of .*; nothing is registered"):
        distilled(on_filled)
    monkeypatch.undo()
    assert not on_filled.training.output.exists()
    with Lake.open(location_of(on_filled)) as lake:
        assert lake.row("SELECT count(*) AS n FROM students")["n"] == 0
        assert lake.row("SELECT count(*) AS n FROM row_sets")["n"] == 0
    assert distilled(on_filled).trained


def test_the_card_of_a_student_says_how_good_it_is_and_how_to_use_it(on_filled: Config, monkeypatch: Any) -> None:
    report = distilled(on_filled)
    directory = Path(report.directory)
    card = ModelCard.load(directory / "README.md")
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    measured = report.metrics["after"]
    assert results["kl_divergence"] == pytest.approx(measured["kl"])
    assert results["cross_entropy"] == pytest.approx(measured["cross_entropy"])
    assert f"| cross-entropy (nats) | {measured['cross_entropy']:.6g} |" in card.text
    assert report.row_set_id in card.text
    facts = json.loads((directory / "logitlake.json").read_text())
    assert facts["evaluation"]["teacher"]["kl"] == 0
    monkeypatch.chdir(directory)
    exec(compile(card.text.partition("```python\n")[2].partition("```")[0], "card", "exec"), {})


def test_a_student_of_a_query_learns_from_what_it_chose_and_keeps_the_query(on_filled: Config) -> None:
    query = "SELECT doc_id, 1 + n_tokens / 100 AS weight FROM documents ORDER BY doc_id LIMIT 9"
    training = on_filled.training.model_copy(update={"query": query})
    report = distilled(on_filled.model_copy(update={"training": training}))
    assert report.trained
    with Lake.open(location_of(on_filled)) as lake:
        seen = lake.sql("SELECT doc_id FROM trained_on WHERE student_id = ?", [report.student_id])["doc_id"].to_pylist()
        chosen = lake.sql("SELECT doc_id FROM documents WHERE NOT held_out ORDER BY doc_id LIMIT 9")["doc_id"]
        assert sorted(seen) == chosen.to_pylist()
        assert lake.row("SELECT query FROM row_sets")["query"] == query
        assert find_student(lake, report.student_id)["settings"]["training"]["query"] == query
    assert not distilled(on_filled.model_copy(update={"training": training})).trained


def test_training_keeps_a_local_copy_where_the_settings_say(on_filled: Config, tmp_path: Path) -> None:
    training = on_filled.training.model_copy(update={"local_copy": tmp_path / "copy"})
    with DistillRun(on_filled.model_copy(update={"training": training})) as run:
        run.train()
    assert list((tmp_path / "copy").rglob("*.rows"))


def test_a_student_is_measured_on_what_it_may_learn_from_next_and_the_losses_are_kept_apart(
    on_filled: Config, cli: Any, tmp_path: Path
) -> None:
    report = distilled(on_filled)
    place = ("--lake", on_filled.lake.path, "--no-teacher", "--format", "json")
    result = cli("evaluate", report.directory, "--where", "n_tokens > 0", *place)
    assert result.exit_code == 0
    assert "training sequences" in result.stderr
    with Lake.open(location_of(on_filled)) as lake:
        rows = lake.sql(
            "SELECT held_out, count(DISTINCT doc_id) AS n FROM student_losses GROUP BY held_out"
        ).to_pylist()
        documents = lake.sql("SELECT held_out, count(*) AS n FROM documents GROUP BY held_out").to_pylist()
    assert sorted(rows, key=str) == sorted(documents, key=str)


@pytest.mark.slow
def test_a_known_student_costs_neither_torch_nor_a_prefect_server(on_filled: Config, tmp_path: Path) -> None:
    first = distilled(on_filled)
    settings = tmp_path / "logitlake.yaml"
    settings.write_text(on_filled.model_dump_json(), encoding="utf-8")
    script = f"""
        import sys
        from logitlake.flows.cli.app import app
        app(["train", "--config", {str(settings)!r}, "--format", "json"], standalone_mode=False)
        print([name for name in ("torch", "transformers", "prefect") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed, loaded = done.stdout.strip().rsplit("\n", 1)
    assert loaded == "[]"
    report = json.loads(printed)
    assert (report["student_id"], report["trained"]) == (first.student_id, False)
    assert "nothing to do" in done.stderr


@pytest.mark.slow
def test_a_student_whose_directory_is_gone_is_trained_again(on_filled: Config) -> None:
    first = distilled(on_filled)
    shutil.rmtree(first.directory)
    second = distilled(on_filled)
    assert (second.trained, second.student_id) == (True, first.student_id)


def test_held_out_documents_are_not_in_the_rows_whatever_the_filter_says(on_filled: Config) -> None:
    training = on_filled.training.model_copy(update={"where": "held_out"})
    with (
        pytest.raises(LakeError, match="no rows to train on"),
        DistillRun(on_filled.model_copy(update={"training": training})),
    ):
        pass


def test_the_rows_of_a_capture_that_found_nothing_new_make_the_same_student(
    on_filled: Config, run_capture: Any
) -> None:
    first = distilled(on_filled)
    report: CaptureReport = run_capture(on_filled)
    assert report.n_documents == 0
    assert not distilled(on_filled).trained, first.student_id


def test_a_recipe_that_the_lake_does_not_hold_is_refused_with_those_it_does(on_filled: Config) -> None:
    target = on_filled.target.model_copy(update={"threshold": 0.123})
    with pytest.raises(LakeError, match="show recipes"), DistillRun(on_filled.model_copy(update={"target": target})):
        pass


def test_the_teacher_may_be_gone_for_a_student_from_a_checkpoint(
    on_filled: Config, tiny_teacher: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_teacher, tmp_path / "checkpoint")
    student = on_filled.student.model_copy(  # type: ignore[union-attr]
        update={"source": "checkpoint", "model": str(tmp_path / "checkpoint"), "layers": None}
    )
    gone = on_filled.teacher.model_copy(update={"model": str(tmp_path / "gone")})  # type: ignore[union-attr]
    report = distilled(on_filled.model_copy(update={"student": student, "teacher": gone}))
    assert report.trained
    assert report.metrics["held_out"]["exact"] is False
    with pytest.raises(SettingsError, match="gone"):
        distilled(on_filled.model_copy(update={"teacher": gone}))


# Trains; every step is a place at which the process may be killed.
TRAIN = """
import sys
from logitlake.flows.distill.run import DistillRun
from logitlake.pipeline.settings.models import Config
from logitlake.storage.failpoints import reach
with DistillRun(
    Config.model_validate_json(sys.argv[1]),
    on_progress=lambda progress: reach("student-training") if progress.loss is None else None,
) as run:
    run.train()
"""


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_from_its_last_checkpoint_by_time(
    on_filled: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint falls due at every step here; `save_steps` is not set, as by default."""
    training = on_filled.training.model_copy(update={"save_minutes": 1e-9})
    config = on_filled.model_copy(update={"training": training})
    call = [sys.executable, "-c", TRAIN, config.model_dump_json()]
    killed = subprocess.run(
        call,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, ENVIRONMENT_VARIABLE: "student-training:4"},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with caplog.at_level("INFO", logger="logitlake"):
        assert distilled(config).trained
    assert "from checkpoint-3" in caplog.text
