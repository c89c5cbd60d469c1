"""The flows as Prefect runs them: names, retries, states and artifacts, against one server for the whole session."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.testing.utilities import prefect_test_harness

from flows.capture import capture, commit
from flows.capture_run import CaptureRun
from flows.distill import distill
from pipeline.config import Config
from storage.errors import LakeBusyError, MismatchError


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
    return {artifact.type or "": artifact for artifact in reversed(found) if artifact.flow_run_id == run.id}


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
    assert "tokens per second" in shown["table"].data
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
    assert "after kl" in artifacts_of(run)["table"].data
    assert not distill(config).trained
