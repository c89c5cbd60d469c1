"""Runs with a process on this machine are told by its environment."""

import os
import subprocess
import sys
from uuid import uuid4

from logitlake.flows.serve.live_runs import live_runs


def test_a_run_lives_while_its_process_does_whatever_others_write_into_the_variable() -> None:
    run_id = uuid4()
    sleep = [sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.read()"]
    processes = [
        subprocess.Popen(
            sleep,
            env={**os.environ, "PREFECT__FLOW_RUN_ID": value},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for value in (str(run_id), "no id")
    ]
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert run_id in live_runs()
    finally:
        for process in processes:
            process.communicate()
    assert run_id not in live_runs()
