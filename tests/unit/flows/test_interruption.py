"""Ctrl-C and SIGTERM at a running capture: a sentence, an exit code, and everything committed still there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.options import location_of
from pipeline.config import Config
from storage.errors import LogitlakeError
from storage.query import query

pytestmark = pytest.mark.slow

COMMAND = "import torch; torch.set_num_threads(1); from flows.cli import main; main()"
PATIENCE = 180


@pytest.fixture
def many(raw_config: dict[str, Any], tmp_path: Path) -> tuple[Config, Path]:
    """Settings with a corpus that takes minutes, one small unit after another, and the file that holds them."""
    corpus = tmp_path / "many.jsonl"
    with corpus.open("wb") as file:
        for number in range(20_000):
            file.write(orjson.dumps({"text": f"the cat {number} sat on the mat {number * 7} and the dog"}) + b"\n")
    raw_config["corpora"][0]["path"] = str(corpus)
    path = tmp_path / "logitlake.yaml"
    path.write_bytes(orjson.dumps(raw_config))
    return Config.model_validate(raw_config), path


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_capture_that_is_stopped_keeps_what_it_committed_and_says_so(
    many: tuple[Config, Path], sent: signal.Signals, code: int
) -> None:
    config, path = many
    call = [sys.executable, "-c", COMMAND, "capture", "--config", str(path)]
    environment = {**os.environ, "PREFECT_LOGGING_LEVEL": "WARNING"}
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        wait_for_commits(config, process, at_least=2)
        process.send_signal(sent)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    assert out == ""
    assert "everything that was committed is kept" in err
    assert "Traceback" not in err
    stored = query(location_of(config), "SELECT count(*) AS n, count(DISTINCT doc_id) AS d FROM documents").to_pylist()
    assert stored[0]["n"] == stored[0]["d"] > 0
    status = query(location_of(config), "SELECT status FROM runs").to_pylist()
    assert status == [{"status": "interrupted"}]


def wait_for_commits(config: Config, process: "subprocess.Popen[str]", *, at_least: int) -> None:
    """Poll the lake until it holds so many commits; fails if the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        if committed(config) >= at_least:
            return
        time.sleep(0.2)
    raise AssertionError("no commit in time")


def committed(config: Config) -> int:
    try:
        return int(query(location_of(config), "SELECT count(*) AS n FROM commits").to_pylist()[0]["n"])
    except LogitlakeError:
        return 0
