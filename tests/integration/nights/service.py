"""`logitlake serve` as a process of its own with its server and its runs, which is killed whole, as systemd does it."""

import contextlib
import http
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from logitlake.flows.runtime.limits import TEACHERS
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import documented_yaml
from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE, SIGNAL_VARIABLE

PATIENCE_SECONDS = 240
BEGUN = {"PENDING", "RUNNING", "CANCELLING"}
# Schedules that never fire by the clock: each run is started by the test.
NEVER: dict[str, Any] = {"capture": None, "redistill": None, "maintain": None, "on_capture": False}


class Service:
    """`logitlake serve` in a directory, with its server and its runs."""

    def __init__(self, directory: Path, config: Config, port: int) -> None:
        """Writes the settings: one teacher at a time, a lake in the directory."""
        directory.mkdir(parents=True)
        self.directory = directory
        self.api = f"http://127.0.0.1:{port}/api"
        self.process: subprocess.Popen[bytes] | None = None
        schedule = config.schedule.model_copy(update={**NEVER, "port": port, "teachers": 1})
        lake = config.lake.model_copy(update={"path": Path("lake")})
        self.config = config.model_copy(
            update={"schedule": schedule, "lake": config.lake.model_copy(update={"path": directory / "lake"})}
        )
        written = documented_yaml(config.model_copy(update={"schedule": schedule, "lake": lake}))
        (directory / "logitlake.yaml").write_text(written, encoding="utf-8")

    def start(self, stop_at: str = "") -> None:
        """Start it. A run that reaches one of the places `stop_at` is held there (see logitlake.storage.failpoints)."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {"HOME": str(self.directory), "PYTHONPATH": str(Path.cwd())}
        environment |= {ENVIRONMENT_VARIABLE: stop_at, SIGNAL_VARIABLE: "SIGSTOP"}
        # Looks for due runs, and for a free place, more often than the defaults of 10 and 30 s.
        environment["PREFECT_RUNNER_POLL_FREQUENCY"] = "2"
        environment["PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS"] = "3"
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
        """Send a signal to every process of the service at once, or to the command alone.

        A process that is held gets SIGCONT after it, as systemd does it.
        """
        assert self.process is not None
        processes = self.processes()
        for process in processes[:1] if alone else processes:
            _send(process, number)
        for process in processes if number != signal.SIGKILL else []:
            _send(process, signal.SIGCONT)
        self.process.wait(PATIENCE_SECONDS)
        _, alive = psutil.wait_procs([] if alone else processes, PATIENCE_SECONDS)
        assert alive == []
        self._seen = len(self.log())

    def end(self) -> None:
        """Kill it whole if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.kill(signal.SIGKILL)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}/{path}", data, {"Content-Type": "application/json"})
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE:  # its database is busy
                    raise
                time.sleep(1)
            except TimeoutError:
                # Its database was busy for a minute: SQLite lets a writer wait for as long.
                assert time.monotonic() < deadline, f"waited for an answer to {path}:\n{self.log().decode()}"

    def deployments(self) -> list[dict[str, Any]]:
        return list(self.ask("deployments/filter", {}))

    def runs(self) -> dict[str, dict[str, Any]]:
        """All runs but those that wait for their hour, by id."""
        begun = {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}}
        return {run["id"]: run for run in self.ask("flow_runs/filter", begun)}

    def begun(self) -> set[str]:
        """The ids of the runs and subflows that have begun and not ended."""
        return {run["id"] for run in self.runs().values() if run["state_type"] in BEGUN}

    def run(self, run_id: str) -> dict[str, Any]:
        return dict(self.ask(f"flow_runs/{run_id}"))

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (value := condition()):
            assert self.process is not None
            alive = self.process.poll() is None
            assert alive and time.monotonic() < deadline, f"waited for {what}:\n{self.log().decode()}"
            time.sleep(0.3)
        return value

    def create_run(self, step: str) -> str:
        """Create a run of capture, generate, redistill or maintain, as the web page does; returns its id."""

        def named() -> list[dict[str, Any]]:
            return [found for found in self.deployments() if found["name"].startswith(step)]

        (deployment,) = self.wait(named, f"the deployment of {step}")
        return str(self.ask(f"deployments/{deployment['id']}/create_flow_run", {})["id"])

    def held(self) -> set[str]:
        """The ids of the runs that are held at a place of `stop_at`."""
        found = set()
        for process in self.processes()[1:]:
            try:
                if process.status() == psutil.STATUS_STOPPED:
                    found.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
            except psutil.NoSuchProcess:
                continue
        return found

    def begin_capture(self) -> set[str]:
        """Start a capture and wait until it holds a teacher slot; returns the ids of its runs."""
        before = set(self.runs())
        self.create_run("capture")
        return set(self.wait(lambda: self._working(before), "a capture that computes"))

    def _working(self, before: set[str]) -> list[str]:
        running = [run for run in self.runs().values() if run["id"] not in before and run["state_type"] == "RUNNING"]
        return [run["id"] for run in running] if self.slots()[TEACHERS] and len(running) == 2 else []

    def slots(self) -> dict[str, float]:
        """The taken slots of each limit of the server, by the limit's name."""
        return {limit["name"]: limit["active_slots"] for limit in self.ask("v2/concurrency_limits/filter", {})}


def _send(process: psutil.Process, number: signal.Signals) -> None:
    """A child may have ended since it was listed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
