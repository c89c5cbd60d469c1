"""A Python module as a process that ends when its parent ends, however that ends: for Prefect servers.

`python -m logitlake.flows.prefect_server.tied_process PARENT MODULE ARGUMENTS…` runs MODULE as `python -m` does, and a
thread that watches the parent. Linux's PR_SET_PDEATHSIG would not do: it fires when the parent's thread ends.
"""

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable

_SECONDS_BETWEEN_LOOKS = 1.0
# A server that does not stop by itself within this time is ended.
_SECONDS_TO_STOP = 15.0


def tied_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module as a child of this process, tied to it."""
    return [sys.executable, "-m", "logitlake.flows.prefect_server.tied_process", str(os.getpid()), module, *arguments]


def end_with(parent: int, *, end: Callable[[], None]) -> threading.Thread:
    """Start a thread that calls `end` once `parent` is no longer the parent of this process."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        end()

    thread = threading.Thread(target=watch, name="parent-watch", daemon=True)
    thread.start()
    return thread


def _end() -> None:
    """Stop as on SIGTERM; if that takes too long, at once."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_STOP)
    os._exit(1)


def main() -> None:
    parent, module, *arguments = sys.argv[1:]
    end_with(int(parent), end=_end)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
