"""A store that fails at random and a catalog that is restarted cost time, and no row."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import urlparse

import orjson
import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE, SIGNAL_VARIABLE
from logitlake.storage.lake.lake import Lake
from logitlake.storage.verification.verify import verify, verify_tables
from tests.integration.conftest import Cluster
from tests.integration.faulty_bucket import FAULTS, faulty_proxy
from tests.tiny_lake import append_documents, tiny_settings

pytestmark = pytest.mark.slow
N_DOCUMENTS = 30


@pytest.fixture
def config_file(
    tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch, postgres: str, s3_data: str
) -> Path:
    """Settings of a lake on PostgreSQL and a bucket, and a corpus of several work units."""
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    append_documents(tmp_path / "documents.jsonl", 0, N_DOCUMENTS)
    raw = tiny_settings(tmp_path, tiny_teacher, tmp_path / "documents.jsonl", max_steps=4)
    raw["training"]["output"] = str(tmp_path / "student")
    raw["lake"] |= {"catalog": postgres, "data": s3_data}
    raw["maintenance"] = {"verify_sample": 1.0}
    path = tmp_path / "logitlake.yaml"
    path.write_bytes(orjson.dumps(raw))
    return path


def _start(config_file: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "logitlake", *arguments, "--config", str(config_file)]
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=config_file.parent, env=environment)


def _is_complete(config_file: Path) -> None:
    """Every document of the corpus once, whole, and nothing that the catalog misses."""
    lake_settings = orjson.loads(config_file.read_bytes())["lake"]
    location = LakeLocation.resolve(Path(lake_settings["path"]), lake_settings["catalog"], lake_settings["data"])
    with Lake.open(location) as lake:
        rows = lake.sql("SELECT doc_id, window_index FROM store.sequences").to_pylist()
        assert max(Counter((row["doc_id"], row["window_index"]) for row in rows).values()) == 1
        documents = lake.sql("SELECT doc_id FROM store.documents")["doc_id"].to_pylist()
        assert len(documents) == len(set(documents)) == N_DOCUMENTS == len({row["doc_id"] for row in rows})
        events = lake.sql("SELECT kind, event FROM store.run_events").to_pylist()
        assert max(Counter((event["kind"], event["event"]) for event in events).values()) == 1
        assert [check.problem for check in (*verify_tables(lake), *verify(lake)) if check.problem] == []


def test_every_command_completes_on_a_bucket_that_fails_and_cuts_connections_at_random(config_file, monkeypatch):
    direct = os.environ["AWS_ENDPOINT_URL"]
    with faulty_proxy(urlparse(direct).port, share=0.07, seed=5) as (port, faults):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for command in (["capture"], ["train"], ["sql", "SELECT count(*) FROM targets"], ["maintain"], ["verify"]):
            with _start(config_file, *command) as process:
                _, error = process.communicate()
            assert process.returncode == 0, (command, error)
    assert set(faults) == set(FAULTS), "every kind of fault was met"
    monkeypatch.setenv("AWS_ENDPOINT_URL", direct)
    _is_complete(config_file)


@pytest.mark.parametrize("place", ["rows-registered:4", "committed:4"])
def test_a_capture_goes_on_when_the_catalog_is_restarted_in_the_middle_of_a_commit(
    config_file, postgres_server: Cluster, place
):
    held = {ENVIRONMENT_VARIABLE: place, SIGNAL_VARIABLE: "SIGSTOP"}
    with _start(config_file, "capture", **held) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "the capture was held in its commit"
        postgres_server.restart()
        process.send_signal(signal.SIGCONT)
        _, error = process.communicate()
    assert process.returncode == 0, error
    _is_complete(config_file)
