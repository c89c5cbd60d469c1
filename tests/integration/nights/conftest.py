"""A tiny teacher, a corpus that grows, settings for nights that take seconds, and one Prefect server for a module."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_URL, temporary_settings

from logitlake.flows.serve.automations import arrange_automations
from logitlake.flows.serve.local_server import local_server
from logitlake.pipeline.settings.models import Config, ScheduleSettings
from logitlake.pipeline.settings.yaml_file import documented_yaml
from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE
from tests.integration.nights.night_settings import night_settings
from tests.integration.nights.service import Service
from tests.tiny_lake import append_documents

# A command is a child of a process that has loaded everything: it starts at once, and is killed like any other.
TEMPLATE = """
import atexit, json, os, sys, traceback
import torch
import logitlake.flows.serve.automations
import logitlake.flows.capture.flow
import logitlake.flows.maintain.flow
import logitlake.flows.redistill.flow
import logitlake.flows.distill.evaluation
import logitlake.pipeline.capture.unit
import logitlake.pipeline.evaluation.evaluate
import logitlake.pipeline.students.initial_model
import logitlake.pipeline.teachers.engines.transformers_engine
import logitlake.pipeline.training.train_student
from logitlake.flows.cli.app import main

torch.set_num_threads(1)
for line in sys.stdin:
    order = json.loads(line)
    if not (child := os.fork()):
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(order["environment"])
        sys.argv = ["logitlake", *order["arguments"]]
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        # Threads of the native libraries did not come along, so their own tidying at the end would abort.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def free_port() -> int:
    return unused_port()


@pytest.fixture
def add(tmp_path: Path) -> Callable[[int, int], None]:
    """Appends documents number `begin` to `end` to the corpus."""
    return partial(append_documents, tmp_path / "documents.jsonl")


@pytest.fixture
def config(tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return night_settings(tmp_path, tiny_teacher)


@pytest.fixture
def service(config: Config, tmp_path: Path, free_port: int) -> Iterator[Service]:
    """`logitlake serve` with one teacher at a time; it is not started yet."""
    service = Service(tmp_path / "nights", config, free_port)
    try:
        yield service
    finally:
        service.end()


@dataclass(frozen=True)
class Server:
    """A Prefect server: its API, its state, and a process from which commands that use it are forked."""

    api: str
    home: Path
    template: "subprocess.Popen[str]"

    def run(self, arguments: list[str], output: Path, environment: dict[str, str]) -> int:
        """Run a command to its end, or to the place at which it is killed; returns its code."""
        assert self.template.stdin is not None and self.template.stdout is not None
        order = {"arguments": arguments, "output": str(output), "environment": environment}
        print(json.dumps(order), file=self.template.stdin, flush=True)
        answer = self.template.stdout.readline()
        assert answer, f"the process that commands are forked from has died; see {self.home / 'template.log'}"
        return int(answer)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("prefect")
    with local_server(home, "127.0.0.1", unused_port()) as url, (home / "template.log").open("w") as log:
        environment = {
            **os.environ,
            "PREFECT_API_URL": url,
            "PREFECT_HOME": str(home),
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PYTHONPATH": str(Path.cwd()),
            "OMP_NUM_THREADS": "1",
        }
        template = subprocess.Popen(
            [sys.executable, "-c", TEMPLATE],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        with template:
            yield Server(url, home, template)


@pytest.fixture(scope="module")
def watched(server: Server, mailbox: "Mailbox") -> Server:
    """The server with the automations that `logitlake serve` makes; what they tell goes to the mailbox."""
    with temporary_settings({PREFECT_API_URL: server.api}):
        hook = CustomWebhookNotificationBlock(
            name="on-call", url=mailbox.url, json_data={"text": "{{subject}} {{body}}"}, secrets={}
        )
        hook.save("on-call")
        arrange_automations(ScheduleSettings(zombie_seconds=60, notify="custom-webhook/on-call"))
    return server


@pytest.fixture
def logitlake(watched: Server, config: Config, tmp_path: Path) -> Callable[..., int]:
    """Runs a command against the server; `kill_at` names the place at which it is to be killed."""
    settings, output = tmp_path / "logitlake.yaml", tmp_path / "output.log"
    settings.write_text(documented_yaml(config), encoding="utf-8")

    def call(*arguments: str, kill_at: str = "") -> int:
        environment = {ENVIRONMENT_VARIABLE: kill_at, "LOGITLAKE_CACHE": str(tmp_path / "cache")}
        code = watched.run([*arguments, "--config", str(settings)], output, environment)
        wanted = -signal.SIGKILL if kill_at else 0
        assert code == wanted, f"{arguments} to be killed at {kill_at!r} ended with {code}:\n{output.read_text()}"
        return code

    return call


@dataclass
class Mailbox:
    """What came in at a web hook."""

    url: str
    messages: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def mailbox() -> Iterator[Mailbox]:
    """A web hook on loopback, as the one of a chat."""
    box = Mailbox("")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            box.messages.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        box.url = f"http://127.0.0.1:{listener.server_address[1]}/"
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield box
        listener.shutdown()
