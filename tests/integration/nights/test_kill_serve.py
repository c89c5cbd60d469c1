"""`logitlake serve` killed in the middle of a run: after the next start nothing is stuck, and captures go on."""

import json
import signal
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from logitlake.flows.serve.local_server import answers
from tests.integration.nights.service import BEGUN, PATIENCE_SECONDS, Service

pytestmark = pytest.mark.slow


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
