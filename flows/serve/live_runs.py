"""Which runs have a process on this machine. Imports no Prefect, which reads its settings when it is imported."""

import shutil
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import psutil

_RUN_ID = "PREFECT__FLOW_RUN_ID"


def live_runs() -> set[UUID]:
    """The runs of scheduled flows that have a process on this machine."""
    runs = set()
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue  # the process has ended, or is another user's
        with suppress(KeyError, ValueError):  # another program may use the variable
            runs.add(UUID(environment[_RUN_ID]))
    return runs


def remove_leases(home: Path) -> None:
    """Remove the leases of slots that dead runs held, before the server of this machine starts.

    If a run survived (only `serve` was killed), nothing is removed: leases of dead runs expire by themselves.
    """
    if not live_runs():
        shutil.rmtree(home / "concurrency_leases", ignore_errors=True)
