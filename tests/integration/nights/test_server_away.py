"""A Prefect server that goes away in the middle of a run, and comes back at the same place, or does not."""

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

from benchmarks.nights import computed_twice
from logitlake.flows.runtime.limits import TEACHERS
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import documented_yaml
from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE, SIGNAL_VARIABLE
from logitlake.storage.lake.lake import Lake

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 150
AWAY_SECONDS = 20
DOCUMENTS = 60


class Server:
    """A Prefect server of its own, as on a machine beside: it keeps its port and its database."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.port = port
        self.api = f"http://127.0.0.1:{port}/api"
        home.mkdir()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, "PREFECT_HOME": str(self.home)}, stdout=log, stderr=log
            )
        wait(self.answers, "the server to start")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api}/health", timeout=5) as answer:
                return json.loads(answer.read()) is True
        except OSError:
            return False

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(PATIENCE_SECONDS)

    def ask(self, path: str, body: dict[str, Any], method: str = "POST") -> Any:
        request = urllib.request.Request(f"{self.api}/{path}", json.dumps(body).encode(), method=method)
        request.add_header("Content-Type", "application/json")
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:
                if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE:  # its database is busy
                    raise
                time.sleep(1)

    def runs(self) -> set[str]:
        return {run["state_type"] for run in self.ask("flow_runs/filter", {})}

    def slots(self) -> int:
        (limit,) = [found for found in self.ask("v2/concurrency_limits/filter", {}) if found["name"] == TEACHERS]
        return int(limit["active_slots"])


def wait(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.2)


class Command:
    """A command of a lake that uses the server; it is held at `stop_at`."""

    def __init__(self, server: Server, config: Config, directory: Path, *arguments: str, **environment: str) -> None:
        (directory / "logitlake.yaml").write_text(documented_yaml(config), encoding="utf-8")
        own = {"PREFECT_API_URL": server.api, "PREFECT_HOME": str(directory / "client"), SIGNAL_VARIABLE: "SIGSTOP"}
        self._output = directory / "output.log"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "logitlake", *arguments],
                cwd=directory,
                env={**os.environ, **own, **environment, "PYTHONPATH": str(Path.cwd())},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def says(self, *words: str) -> bool:
        """Whether one line of its output has all the words. Raises AssertionError if it has ended."""
        assert self.process.poll() is None, self.output()
        return any(all(word in line for word in words) for line in self.output().splitlines())

    def wait_until_held(self) -> None:
        process = psutil.Process(self.process.pid)
        wait(lambda: process.status() == psutil.STATUS_STOPPED, "the command to be held")

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def server(tmp_path: Path, free_port: int) -> Iterator[Server]:
    server = Server(tmp_path / "prefect", free_port)
    try:
        yield server
    finally:
        server.end(signal.SIGKILL)


@pytest.fixture
def leases_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the server as docs/operations.md says."""
    monkeypatch.setenv(
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", "prefect.server.concurrency.lease_storage.filesystem"
    )


@pytest.fixture
def config(config: Config, add: Callable[[int, int], None]) -> Config:
    add(0, DOCUMENTS)
    return config.model_copy(update={"schedule": config.schedule.model_copy(update={"teachers": 1})})


@pytest.fixture
def run(server: Server, config: Config, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts a command; none of them outlives the test."""
    started: list[Command] = []

    def start(*arguments: str, **environment: str) -> Command:
        started.append(Command(server, config, tmp_path, *arguments, **environment))
        return started[-1]

    yield start
    for command in started:
        command.process.kill()
        command.process.wait()


def documents(config: Config) -> int:
    with Lake.open(location_of(config)) as lake:
        return int(lake.row("SELECT count(*) AS n FROM documents")["n"])


@pytest.mark.parametrize(
    ("step", "place", "number"),
    [
        ("capture", "unit-computed:2", signal.SIGKILL),
        ("redistill", "student-training:2", signal.SIGTERM),
    ],
)
def test_a_run_goes_on_while_its_server_is_away(
    server: Server, config: Config, run: Callable[..., Command], step: str, place: str, number: signal.Signals
) -> None:
    command = run(step, **{ENVIRONMENT_VARIABLE: place})
    command.wait_until_held()
    server.end(number)
    command.go_on()
    time.sleep(AWAY_SECONDS)
    server.start()
    assert command.process.wait(PATIENCE_SECONDS) == 0, command.output()
    assert (documents(config), computed_twice(config)) == (DOCUMENTS, 0)
    assert server.runs() == {"COMPLETED"}
    wait(lambda: server.slots() == 0, "the teacher slot to be free")


def test_a_run_that_waits_for_a_slot_waits_on_while_its_server_is_away(
    server: Server, config: Config, run: Callable[..., Command]
) -> None:
    taken = {"name": TEACHERS, "limit": 1, "active_slots": 1}
    server.ask("v2/concurrency_limits/", taken)
    command = run("capture", PREFECT_CLIENT_MAX_RETRIES="1", **{ENVIRONMENT_VARIABLE: "teacher-wanted"})
    command.wait_until_held()
    for what in ("server does not answer", "are taken"):
        server.end(signal.SIGKILL)
        command.go_on()
        time.sleep(AWAY_SECONDS)
        server.start()
        wait(lambda what=what: command.says("waiting for a teacher slot", what), f"a line that says: {what}")
    server.ask(f"v2/concurrency_limits/{TEACHERS}", {"active_slots": 0}, "PATCH")
    assert command.process.wait(PATIENCE_SECONDS) == 0, command.output()
    assert documents(config) == DOCUMENTS


@pytest.mark.usefixtures("leases_in_files")
def test_a_run_whose_server_stays_away_ends_with_one_sentence_and_the_next_one_completes_it(
    server: Server, config: Config, run: Callable[..., Command]
) -> None:
    places = {ENVIRONMENT_VARIABLE: "unit-computed:3"}
    command = run("capture", PREFECT_CLIENT_MAX_RETRIES="1", **places)
    command.wait_until_held()
    server.end(signal.SIGKILL)
    command.go_on()
    assert command.process.wait(PATIENCE_SECONDS) == 1
    last = command.output().splitlines()[-1]
    assert last.startswith(f"logitlake: Prefect's server {server.api} went away during the run"), command.output()
    kept = documents(config)
    assert 0 < kept <= DOCUMENTS
    server.start()
    again = run("capture")
    assert again.process.wait(PATIENCE_SECONDS) == 0, again.output()
    assert (documents(config), computed_twice(config)) == (DOCUMENTS, 0)
