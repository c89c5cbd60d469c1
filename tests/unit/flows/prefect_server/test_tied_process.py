"""A server ends with the process that started it, even if that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE

# Starts a module that never ends, prints its process id, and waits to be killed.
PARENT = """
import subprocess, sys, time
from logitlake.flows.prefect_server.tied_process import tied_command
child = subprocess.Popen(tied_command("endless", *sys.argv[1:]))
print(child.pid, flush=True)
time.sleep(600)
"""
PATIENCE = 60


def ends(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    for process in alive:
        process.kill()
    return not alive


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_tied_process_ends_when_its_parent_is_killed(tmp_path: Path, how: signal.Signals) -> None:
    began = tmp_path / "began"
    (tmp_path / "endless.py").write_text(
        "import pathlib, sys, time\n"
        "assert __name__ == '__main__'\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "while True: time.sleep(0.1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    call = [sys.executable, "-c", PARENT, str(began)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        wait_for(began)
        assert child.is_running()
        parent.send_signal(how)
    assert ends([child])


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not made in time"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_command_that_is_killed_leaves_no_server_behind(config_file: Path) -> None:
    call = [sys.executable, "-m", "logitlake", "capture", "--config", str(config_file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    environment |= {ENVIRONMENT_VARIABLE: "unit-computed:2", "PREFECT_LOGGING_LEVEL": "WARNING"}
    seen: dict[int, psutil.Process] = {}
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as run:
        while run.poll() is None:
            seen |= {child.pid: child for child in children(run.pid)}
            time.sleep(0.2)
        assert run.returncode == -signal.SIGKILL, run.stdout and run.stdout.read()
        servers = [process for process in seen.values() if process.is_running()]
        assert servers, "no server ran when the command was killed"
        assert ends(servers)


def children(pid: int) -> list[Any]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
