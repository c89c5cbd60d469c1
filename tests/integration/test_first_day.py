"""The first day of a lake: from an empty PostgreSQL database and an empty bucket, as from an empty directory."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from prefect.testing.utilities import prefect_test_harness

from logitlake.flows.serve import deployments
from tests.tiny_lake import append_documents, tiny_settings

pytestmark = pytest.mark.slow


@pytest.fixture(params=["embedded", "server"])
def config_file(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Settings of a lake that is not there: a SQLite file in a directory, or a PostgreSQL database with a bucket."""
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    append_documents(tmp_path / "documents.jsonl", 0, 30)
    raw = tiny_settings(tmp_path, tiny_teacher, tmp_path / "documents.jsonl", learning_rate=0.003)
    # Of two work units, a sample may hold none.
    raw["maintenance"] = {"verify_sample": 1.0}
    if request.param == "server":
        raw["lake"]["catalog"] = request.getfixturevalue("postgres")
        raw["redistill"] = {"students": str(tmp_path / "students")}
        raw["lake"]["data"] = request.getfixturevalue("s3_data")
    path = tmp_path / "logitlake.yaml"
    path.write_bytes(orjson.dumps(raw))
    return path


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


def _logitlake(config_file: Path, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "logitlake", *arguments, "--config", str(config_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=config_file.parent)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def _json(config_file: Path, *arguments: str) -> Any:
    code, out, error = _logitlake(config_file, *arguments, "--format", "json")
    assert code == 0, error
    return json.loads(out)


def test_every_command_says_that_there_is_no_lake_yet_and_a_capture_makes_it(config_file: Path) -> None:
    for arguments in (["show"], ["show", "runs"], ["sql", "SELECT 1"], ["verify"], ["maintain"]):
        code, out, error = _logitlake(config_file, *arguments)
        assert (code, out, error.count("holds no lake")) == (5, "", 1), (arguments, error)
        assert "`logitlake capture` makes one" in error
    assert _json(config_file, "plan")["documents_new"] == 30
    assert _json(config_file, "capture")["n_documents"] == 30
    assert _json(config_file, "plan")["documents_new"] == 0
    assert _json(config_file, "sql", "SELECT count(*) AS n FROM documents") == [{"n": 30}]
    assert _json(config_file, "show", "runs")


def test_the_first_scheduled_capture_makes_the_lake(config_file: Path, prefect_server: None) -> None:
    assert deployments.capture(config_file)["n_documents"] == 30
    assert _json(config_file, "sql", "SELECT count(*) AS n FROM documents") == [{"n": 30}]


def test_the_first_scheduled_night_makes_the_lake_and_a_student(config_file: Path, prefect_server: None) -> None:
    report = deployments.redistill(config_file)
    assert (report["captured_documents"], report["outcome"]) == (30, "promoted")
    assert deployments.maintain(config_file)["units_verified"] > 0
