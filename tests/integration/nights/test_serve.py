"""`logitlake serve` from nothing to a promoted student: a server of its own, the clock, and the event of a capture."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.nights import computed_twice, finished_nights
from logitlake.flows.runtime.limits import TEACHERS
from logitlake.flows.serve.local_server import answers
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import documented_yaml

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 900
SECONDS_TO_END = 60


@pytest.fixture
def served(config: Config, tmp_path: Path, free_port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """The command in an empty home: captures by the clock, the student by nothing but the event of a capture."""
    schedule = config.schedule.model_copy(
        update={"capture": "* * * * *", "redistill": None, "maintain": None, "port": free_port, "teachers": 1}
    )
    settings = tmp_path / "logitlake.yaml"
    settings.write_text(documented_yaml(config.model_copy(update={"schedule": schedule})), encoding="utf-8")
    (tmp_path / "home").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "logitlake", "serve"]
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(SECONDS_TO_END)


def asked(api: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"{api}/{path}", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return list(json.loads(answer.read()))


def test_documents_that_arrive_are_captured_by_the_clock_and_the_capture_starts_the_student(
    served: "subprocess.Popen[bytes]", config: Config, add: Callable[[int, int], None], tmp_path: Path, free_port: int
) -> None:
    add(0, 30)
    api = f"http://127.0.0.1:{free_port}/api"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not finished_nights(config):
        assert served.poll() is None and time.monotonic() < deadline, (tmp_path / "serve.log").read_text()
        time.sleep(1)
    (night,) = finished_nights(config)
    assert (night["outcome"], night["new_documents"] > 0, computed_twice(config)) == ("promoted", True, 0)

    # Those that the clock has planned for later have no name of ours yet, and there are many.
    begun = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "COMPLETED"]}}}}
    runs = asked(api, "flow_runs/filter", begun)
    names = {run["name"] for run in runs}
    assert any(re.fullmatch(r"teacher0 after commit \d+", name) for name in names), names
    assert [run["name"] for run in runs if "logitlake" not in run["tags"]] == []
    artifacts = asked(api, "artifacts/filter", {})
    assert {"capture", "distill", "redistill", "student"} <= {artifact["key"] for artifact in artifacts}
    bars = [artifact["flow_run_id"] for artifact in artifacts if artifact["type"] == "progress"]
    assert len(bars) == len(set(bars)) >= 2, "one bar a run"
    limits = asked(api, "v2/concurrency_limits/filter", {})
    assert [(limit["name"], limit["limit"]) for limit in limits if limit["name"] == TEACHERS] == [(TEACHERS, 1)]

    os.killpg(served.pid, signal.SIGINT)
    assert served.wait(SECONDS_TO_END) == 0, (tmp_path / "serve.log").read_text()
    assert not answers(api), "the server ends with it"
    assert (config.lake.path / "prefect" / "prefect.db").is_file()
    assert list((tmp_path / "home").iterdir()) == [], "nothing is written to the user's home"
