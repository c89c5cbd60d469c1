"""The process of the Prefect server of `serve`: it ends with its parent, however the parent ends.

`local_server` runs this module with a pipe as its standard input. The kernel closes the other end of the pipe when the
parent is gone, also after SIGKILL.
"""

import os
import runpy
import signal
import sys
import threading
import time

_STOP_SECONDS = 10


def end_with_parent() -> None:
    """Wait until the pipe is closed, then stop this process: by SIGTERM, and after some seconds at once."""
    while os.read(sys.stdin.fileno(), 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
