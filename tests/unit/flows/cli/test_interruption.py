"""Ctrl-C and SIGTERM at a running capture: a sentence, an exit code, and everything committed still there."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LogitlakeError
from logitlake.storage.sql.session import query

pytestmark = pytest.mark.slow

COMMAND = "import torch; torch.set_num_threads(1); from logitlake.flows.cli.app import main; main()"
PATIENCE = 180
SECONDS_TO_END = 30


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


def start_capture(path: Path) -> "subprocess.Popen[str]":
    """A capture that leads a process group of its own, as a shell starts it."""
    call = [sys.executable, "-c", COMMAND, "capture", "--config", str(path)]
    environment = {**os.environ, "PREFECT_LOGGING_LEVEL": "WARNING"}
    return subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


@pytest.mark.parametrize(
    ("sent", "to", "code"),
    [
        pytest.param(signal.SIGINT, os.kill, 130, id="interrupt"),
        pytest.param(signal.SIGINT, os.killpg, 130, id="ctrl-c-at-a-terminal"),
        pytest.param(signal.SIGTERM, os.kill, 143, id="terminate"),
    ],
)
def test_a_capture_that_is_stopped_keeps_what_it_committed_and_says_so(
    many: tuple[Config, Path], sent: signal.Signals, to: Callable[[int, int], None], code: int
) -> None:
    config, path = many
    with start_capture(path) as process:
        wait_for_commits(config, process, at_least=2)
        to(process.pid, sent)
        began = time.monotonic()
        out, err = process.communicate(timeout=PATIENCE)
        assert time.monotonic() - began < SECONDS_TO_END, err
    assert process.returncode == code, err
    assert out == ""
    assert "committed work is kept" in err
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
