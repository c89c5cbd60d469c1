"""`logitlake serve` killed in the middle of a run: after the next start nothing is stuck, and captures go on."""

import http
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from logitlake.flows.runtime.limits import TEACHERS
from logitlake.flows.serve.local_server import answers
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import documented_yaml

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 240
BEGUN = {"PENDING", "RUNNING", "CANCELLING"}


class Service:
    """`logitlake serve` in a directory, with its server and its runs."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.api = f"http://127.0.0.1:{port}/api"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {"HOME": str(self.directory), "PYTHONPATH": str(Path.cwd())}
        # What the environment says about networks does not keep it from its own server.
        environment |= {"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}
        with (self.directory / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "logitlake", "serve"],
                cwd=self.directory,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait(lambda: b"serving lake" in self.log()[self._seen :], "the service to start")

    _seen = 0

    def log(self) -> bytes:
        return (self.directory / "serve.log").read_bytes()

    def processes(self) -> list[psutil.Process]:
        """The command, its server and its runs."""
        assert self.process is not None
        command = psutil.Process(self.process.pid)
        return [command, *command.children(recursive=True)]

    def kill(self, number: signal.Signals, *, alone: bool = False) -> None:
        """Send a signal to every process of the service at once, or to the command alone."""
        assert self.process is not None
        processes = self.processes()
        for process in processes[:1] if alone else processes:
            process.send_signal(number)
        self.process.wait(PATIENCE_SECONDS)
        _, alive = psutil.wait_procs([] if alone else processes, PATIENCE_SECONDS)
        assert alive == []
        self._seen = len(self.log())

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}/{path}", data, {"Content-Type": "application/json"})
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE:  # its database is busy
                    raise
                time.sleep(1)

    def deployments(self) -> list[dict[str, Any]]:
        return list(self.ask("deployments/filter", {}))

    def runs(self) -> dict[str, dict[str, Any]]:
        """All runs but those that wait for their hour, by id."""
        begun = {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}}
        return {run["id"]: run for run in self.ask("flow_runs/filter", begun)}

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (value := condition()):
            assert self.process is not None
            alive = self.process.poll() is None
            assert alive and time.monotonic() < deadline, f"waited for {what}:\n{self.log().decode()}"
            time.sleep(0.3)
        return value

    def begin_capture(self) -> set[str]:
        """Start a capture and wait until it holds a teacher slot; returns the ids of its runs."""
        before = set(self.runs())
        self.wait(lambda: len(self.deployments()) == 3, "the deployments")
        (deployment,) = [found for found in self.deployments() if found["name"].startswith("capture")]
        self.ask(f"deployments/{deployment['id']}/create_flow_run", {})
        return set(self.wait(lambda: self._working(before), "a capture that computes"))

    def _working(self, before: set[str]) -> list[str]:
        running = [run for run in self.runs().values() if run["id"] not in before and run["state_type"] == "RUNNING"]
        (limit,) = [limit for limit in self.ask("v2/concurrency_limits/filter", {}) if limit["name"] == TEACHERS]
        return [run["id"] for run in running] if limit["active_slots"] and len(running) == 2 else []


@pytest.fixture
def service(config: Config, tmp_path: Path, free_port: int) -> Iterator[Service]:
    """One teacher at a time, and documents enough for minutes."""
    home = tmp_path / "nights"
    home.mkdir()
    schedule = config.schedule.model_copy(
        update={"capture": None, "redistill": None, "maintain": None, "port": free_port, "teachers": 1}
    )
    lake = config.lake.model_copy(update={"path": Path("lake")})
    written = documented_yaml(config.model_copy(update={"schedule": schedule, "lake": lake}))
    (home / "logitlake.yaml").write_text(written, encoding="utf-8")
    service = Service(home, free_port)
    try:
        yield service
    finally:
        if service.process is not None and service.process.poll() is None:
            service.kill(signal.SIGKILL)


def test_after_every_kind_of_kill_a_capture_runs(service: Service, add: Callable[[int, int], None]) -> None:
    add(0, 20_000)
    service.start()
    runs = service.begin_capture()
    for number in (signal.SIGKILL, signal.SIGTERM):
        service.kill(number)
        service.start()
        after = service.runs()
        assert {after[run]["state_type"] for run in runs} == {"CRASHED"}
        assert not [run for run in after.values() if run["state_type"] in BEGUN]
        runs = service.begin_capture()
    # A lake that was moved after a kill is the same lake at another place.
    service.kill(signal.SIGKILL)
    moved = service.directory.with_name("moved")
    service.directory.rename(moved)
    service.directory = moved
    service.start()
    service.begin_capture()


def test_the_server_ends_with_a_command_that_is_killed_alone(service: Service) -> None:
    service.start()
    assert f'"{service.api}"' in json.dumps(_ui_settings(service))
    service.kill(signal.SIGKILL, alone=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while answers(service.api):
        assert time.monotonic() < deadline, "the server runs without its parent"
        time.sleep(0.3)
    service.start()


@pytest.mark.parametrize("moment", ["starting", "serving"])
def test_the_command_ends_with_an_error_when_its_server_dies(service: Service, moment: str) -> None:
    """Then systemd starts both again; without a server nothing would run, and nobody would hear of it."""
    service.start()
    if moment == "serving":
        service.wait(lambda: len(service.deployments()) == 3, "the deployments")
    (server,) = [process for process in service.processes() if "server" in process.cmdline()]
    server.kill()
    assert service.process is not None
    assert service.process.wait(PATIENCE_SECONDS) == 1
    assert b"Prefect's server has ended with code -9" in service.log()


def _ui_settings(service: Service) -> Any:
    with urllib.request.urlopen(f"{service.api.removesuffix('/api')}/ui-settings", timeout=60) as answer:
        return json.loads(answer.read())
