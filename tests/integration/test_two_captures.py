"""Captures on several machines, one lake on PostgreSQL: each document is computed once, by one of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import orjson
import pytest
from prefect.settings import get_current_settings
from prefect.testing.utilities import prefect_test_harness

from logitlake.flows.capture.preparation import prepare
from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage import failpoints
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.writing.claims import ServerClaims, claims_of
from tests.tiny_lake import append_documents, capture_all, tiny_settings

pytestmark = pytest.mark.slow
DOCUMENTS = 120


@pytest.fixture
def raw(tmp_path: Path, tiny_teacher: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a lake on PostgreSQL that is not there yet."""
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    append_documents(tmp_path / "documents.jsonl", 0, DOCUMENTS)
    raw = tiny_settings(tmp_path, tiny_teacher, tmp_path / "documents.jsonl")
    raw["lake"] |= {"catalog": postgres, "data": str(tmp_path / "shared data"), "held_out": {"share": 0.0}}
    raw["capture"]["claim_seconds"] = 3
    return raw


def _claims(location: LakeLocation, holder: str, lease_seconds: float = 60.0) -> Any:
    return claims_of(location, holder=holder, recipe_ids=["r1", "r2"], lease_seconds=lease_seconds)


def test_a_document_has_one_holder_until_it_is_given_back(tmp_path: Path, postgres: str) -> None:
    location = LakeLocation.resolve(tmp_path, postgres, None)
    with _claims(location, "one") as one, _claims(location, "it's another") as other:
        assert one.take(["a", "b"]) == {"a", "b"} == one.take(["a", "b"])
        assert other.take(["b", "c"]) == {"c"}
        assert (other.of_others(["a", "b", "c"]), one.of_others(["a", "b", "c"])) == ({"a", "b"}, {"c"})
        one.release(["b"])
        assert other.take(["b"]) == {"b"}
    with _claims(location, "later") as later:
        assert later.take(["a", "b", "c"]) == {"a", "b", "c"}


def test_the_claims_of_a_run_that_died_expire_and_those_of_a_living_one_do_not(tmp_path: Path, postgres: str) -> None:
    location = LakeLocation.resolve(tmp_path, postgres, None)
    ended = threading.Event()
    with _claims(location, "alive", lease_seconds=1.5) as alive, _claims(location, "waits") as waits:
        # Nobody renews these.
        dead = ServerClaims(location, holder="dead", recipe_ids=("r1", "r2"), lease_seconds=1.5)
        assert alive.take(["a"]) | dead.take(["b"]) == {"a", "b"}
        deadline = time.monotonic() + 60
        while waits.take(["b"]) != {"b"}:
            assert time.monotonic() < deadline
            ended.wait(0.1)
        ended.wait(3.0)
        assert waits.take(["a", "b"]) == {"b"}


def test_runs_that_claim_at_once_never_hold_the_same_document(tmp_path: Path, postgres: str) -> None:
    location = LakeLocation.resolve(tmp_path, postgres, None)
    doc_ids = [f"document {number}" for number in range(300)]

    def take(number: int) -> set[str]:
        taken: set[str] = set()
        with _claims(location, f"run {number}") as claims:
            for begin in range(0, 300, 30):
                # Overlapping units, in another order each.
                wanted = doc_ids[begin : begin + 50][:: 1 if number % 2 else -1]
                taken |= claims.take(wanted)
            barrier.wait()
        return taken

    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as threads:
        shares = list(threads.map(take, range(4)))
    assert sorted(doc_id for share in shares for doc_id in share) == sorted(doc_ids)


def test_without_a_server_a_run_goes_on_as_if_it_were_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    location = LakeLocation.resolve(tmp_path, "postgres:host=127.0.0.1 port=1 user=u password=geheim dbname=d", None)
    with _claims(location, "one") as claims:
        assert (claims.take(["a"]), claims.of_others(["a"])) == ({"a"}, set())
    assert "did not answer about claims" in caplog.text
    assert "geheim" not in caplog.text


def _capture(raw: dict[str, Any], pipe: Connection, kill_at: str | None) -> None:
    """Capture all, and send the number of tokens that the teacher read."""
    if kill_at:
        os.environ[failpoints.ENVIRONMENT_VARIABLE] = kill_at
    config, computed = Config.model_validate(raw), 0

    def count(n_tokens: int) -> None:
        nonlocal computed
        computed += n_tokens

    with CaptureRun(config, on_tokens=count) as run:
        for number in run.units():
            run.commit(run.compute(number))
    pipe.send((computed, run.report.n_tokens, run.report.documents_elsewhere))


def _start(raw: dict[str, Any], kill_at: str | None = None) -> tuple[BaseProcess, Connection]:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_capture, args=(raw, there, kill_at))
    process.start()
    there.close()
    return process, here


def _content_hash(config: Config) -> str:
    with Lake.open(location_of(config)) as lake:
        return resolve_row_set(lake, recipe_id=prepare(config).recipe.recipe_id).content_hash


def test_three_captures_share_the_work_and_leave_the_lake_of_one(raw: dict[str, Any], tmp_path: Path) -> None:
    config = Config.model_validate(raw)
    workers = [_start(raw) for _ in range(3)]
    answers = []
    for process, pipe in workers:
        answers.append(pipe.recv())
        process.join()
    alone = Config.model_validate({**raw, "lake": {"path": str(tmp_path / "alone"), "held_out": {"share": 0.0}}})
    report = capture_all(alone)
    assert sum(computed for computed, _, _ in answers) == report.n_tokens == sum(stored for _, stored, _ in answers)
    assert _content_hash(config) == _content_hash(alone)


def test_a_capture_that_is_killed_costs_its_unit_only(raw: dict[str, Any]) -> None:
    config = Config.model_validate(raw)
    killed, _ = _start(raw, kill_at="unit-computed:2")
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    # Its claims are younger than their lease: the second capture takes the rest first, and then what is free.
    process, pipe = _start(raw)
    computed, stored, elsewhere = pipe.recv()
    process.join()
    assert (computed, elsewhere) == (stored, 0)
    with Lake.open(location_of(config)) as lake:
        assert lake.row("SELECT count(*) AS n, count(DISTINCT doc_id) AS d FROM store.documents") == {
            "n": DOCUMENTS,
            "d": DOCUMENTS,
        }


def test_two_captures_of_one_prefect_server_share_the_teacher_slot_and_the_work(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may wait at its end for a document that the other has claimed, while the other waits for the slot."""
    path = tmp_path / "logitlake.yaml"
    path.write_bytes(orjson.dumps(raw))
    command = [sys.executable, "-m", "logitlake", "capture", "--config", str(path)]
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    with prefect_test_harness(server_startup_timeout=120):
        monkeypatch.setenv("PREFECT_API_URL", str(get_current_settings().api.url))
        captures = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        try:
            for capture in captures:
                _, error = capture.communicate(timeout=240)
                assert capture.returncode == 0, error.decode()
        finally:
            for capture in captures:
                capture.kill()
    with Lake.open(location_of(Config.model_validate(raw))) as lake:
        row = lake.row("SELECT count(*) AS n, count(DISTINCT doc_id) AS d FROM store.documents")
    assert row == {"n": DOCUMENTS, "d": DOCUMENTS}
