"""The flows as Prefect runs them: names, retries, states and artifacts, against one server for the whole session."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.settings import get_current_settings
from prefect.testing.utilities import prefect_test_harness

from logitlake.flows.capture.flow import capture, commit
from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.distill.flow import distill
from logitlake.flows.maintain.flow import maintain
from logitlake.flows.runtime import limits
from logitlake.flows.runtime.environment import TAG
from logitlake.flows.serve import deployments
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LakeBusyError, LakeMissingError, MismatchError


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    """One server of its own for every test here: it takes ten seconds to start."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


def last_run() -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)[0]


def artifacts_of(run: FlowRun) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(sort=ArtifactSort.CREATED_DESC, limit=50)
    return {
        artifact.key or artifact.type or "": artifact for artifact in reversed(found) if artifact.flow_run_id == run.id
    }


@pytest.mark.slow
def test_a_capture_is_named_by_teacher_and_commit_number_and_shows_progress_and_a_table(
    server: None, config: Config, tiny_teacher: Path
) -> None:
    report = capture(config)
    assert report.n_documents == 30
    run = last_run()
    assert run.name == f"{tiny_teacher.name} after commit 0"
    assert run.state is not None
    assert run.state.is_completed()
    shown = artifacts_of(run)
    assert shown["progress"].data == 100.0
    assert "tokens per second" in shown["capture"].data
    assert "difference" in shown["capture-plan"].data
    again = capture(config)
    assert again.n_documents == 0


def test_a_unit_that_fails_for_a_while_is_retried_and_committed_once(
    server: None, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    committed = CaptureRun.commit

    def busy_at_first(self: CaptureRun, number: int) -> Any:
        tries.append(number)
        if tries.count(0) == 1 and number == 0:
            raise LakeBusyError("somebody else is committing")
        return committed(self, number)

    monkeypatch.setattr(CaptureRun, "commit", busy_at_first)
    monkeypatch.setattr(commit, "retry_delay_seconds", [0])
    report = capture(config)
    assert tries.count(0) == 2
    assert report.n_documents == 30


def test_what_no_retry_can_mend_is_raised_at_once_as_it_is(
    server: None, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def mismatch(self: CaptureRun, number: int) -> int:
        tries.append(number)
        raise MismatchError("two things do not fit")

    monkeypatch.setattr(CaptureRun, "compute", mismatch)
    with pytest.raises(MismatchError, match="do not fit"):
        capture(config)
    assert tries == [0]


@pytest.mark.slow
def test_a_student_is_trained_once_and_its_run_says_where_it_comes_from(
    server: None, filled: Any, tmp_path: Path
) -> None:
    shutil.copytree(filled.config.lake.path, tmp_path / "lake")
    lake = filled.config.lake.model_copy(update={"path": tmp_path / "lake"})
    training = filled.config.training.model_copy(update={"output": tmp_path / "student"})
    config = filled.config.model_copy(update={"lake": lake, "training": training})
    assert distill(config).trained
    run = last_run()
    assert run.name.startswith("1 layers of the teacher at commit ")
    assert "KL, after training" in artifacts_of(run)["distill"].data
    page = tmp_path / "lake" / "report.html"
    shown = artifacts_of(run)["report"]
    assert shown.type == "markdown"
    assert f"`{page}`" in shown.data
    assert "file://" not in shown.data, "browsers refuse links to files"
    assert re.search(r"- commit number: \d+\n- shards: \d+\n- size: \d", shown.data)
    assert "Training curves" in page.read_text(encoding="utf-8")
    page.unlink()
    assert not distill(config).trained
    assert not page.exists(), "nothing was trained, so nothing is reported anew"


@pytest.mark.slow
def test_a_report_that_can_not_be_written_does_not_end_the_run(
    server: None, filled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(filled.config.lake.path, tmp_path / "lake")
    lake = filled.config.lake.model_copy(update={"path": tmp_path / "lake"})

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("logitlake.flows.report.page.write_report", full)
    maintain(filled.config.model_copy(update={"lake": lake}))
    run = last_run()
    assert run.state is not None
    assert run.state.is_completed()
    assert "report" not in artifacts_of(run)


@pytest.mark.slow
def test_the_whole_job_by_commands_and_again_with_nothing_to_do(server: None, cli: Any, config_file: Path) -> None:
    def call(*arguments: object) -> tuple[Any, str]:
        result = cli(*arguments, "--config", config_file, "--format", "json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout), result.stderr

    planned, _ = call("plan")
    captured, _ = call("capture")
    assert (captured["n_tokens"], captured["n_units"]) == (planned["tokens"], planned["units"])
    again, said = call("capture")
    assert (again["n_tokens"], "nothing to do" in said) == (0, True)
    student, _ = call("train")
    assert student["after_kl"] < student["before_kl"]
    known, said = call("train")
    assert (known["trained"], known["student_id"], "nothing to do" in said) == (False, student["student_id"], True)
    exact, _ = call("evaluate")
    cached, _ = call("evaluate", student["student_id"][:8], "--no-teacher")
    assert [row["model"] for row in exact] == ["student", "teacher"]
    assert exact[0]["kl"] == pytest.approx(student["after_kl"])
    assert cached[0]["kl"] == pytest.approx(exact[0]["kl"], abs=6 * cached[0]["kl_stderr"] + 1e-3)
    shown, _ = call("show", "student", student["student_id"][:8])
    assert shown["lineage"][0]["recipe_ids"] == [captured["recipe_id"]]
    answer, _ = call("sql", "SELECT count(*) AS n FROM students")
    assert answer == [{"n": 1}]


def test_an_error_inside_a_flow_is_one_message_and_its_exit_code(
    server: None, cli: Any, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mismatch(self: CaptureRun, number: int) -> int:
        raise MismatchError("two things do not fit")

    monkeypatch.setattr(CaptureRun, "compute", mismatch)
    result = cli("capture", "--config", config_file)
    assert result.exit_code == 4
    assert "logitlake: two things do not fit" in result.stderr
    assert result.stdout == ""


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_lake_still_opens(
    server: None, cli: Any, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: CaptureRun, number: int) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "lake/data/x.parquet")

    monkeypatch.setattr(commit, "retry_delay_seconds", [0])
    monkeypatch.setattr(CaptureRun, "commit", full)
    result = cli("capture", "--config", config_file)
    assert result.exit_code == 5
    assert "there is no room to write in lake/data" in result.stderr
    assert cli("show", "runs", "--config", config_file).exit_code == 0


@pytest.mark.slow
def test_who_waits_for_a_teacher_slot_says_for_what_and_gives_up_after_a_bound(
    server: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "_REPORT_SECONDS", 0.2)
    monkeypatch.setattr(limits, "_BOUND_SECONDS", 1.0)

    @flow(name="capture", flow_run_name="the one that computes")
    def holder() -> None:
        with get_client(sync_client=True) as client:
            change = GlobalConcurrencyLimitUpdate(active_slots=1)
            client.update_global_concurrency_limit(limits.TEACHERS, change)
        with pytest.raises(LakeBusyError, match="no teacher slot was free within 1 s"):
            waiter()

    @flow(name="capture", flow_run_name="the one that waits")
    def waiter() -> None:
        with limits.one_teacher(1):
            raise AssertionError("the slot is taken")

    limits.ensure_limit(1)
    with caplog.at_level("WARNING", logger="logitlake"), tags(TAG):
        holder()
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("waiting for a teacher")]
    assert said
    assert all("1 of 1 slots of logitlake-teachers are taken" in line for line in said)
    command = re.findall(r"`prefect (gcl update .*?)`", said[0])[0]
    subprocess.run([sys.executable, "-m", "prefect", *command.split()], check=True, env=server_environment())
    with limits.one_teacher(1):
        pass


def server_environment() -> dict[str, str]:
    """The environment in which a command speaks to the server of these tests."""
    return {**os.environ, "PREFECT_API_URL": str(get_current_settings().api.url)}


def test_scheduled_upkeep_before_the_first_capture_has_nothing_to_do_and_does_not_fail(
    server: None, config: Config, config_file: Path
) -> None:
    assert deployments.maintain(config_file) == {}
    run = last_run()
    assert run.state is not None and run.state.is_completed()
    assert not config.lake.path.exists(), "upkeep makes no lake"


def test_scheduled_upkeep_of_shards_whose_catalog_is_gone_fails(
    server: None, config: Config, config_file: Path, captured: Any
) -> None:
    for file in config.lake.path.glob("catalog.sqlite*"):
        file.unlink()
    with pytest.raises(LakeMissingError, match="logitlake rebuild"):
        deployments.maintain(config_file)
