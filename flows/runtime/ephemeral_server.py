"""The server that Prefect starts for one run if none is configured, protected from the terminal's Ctrl-C.

A terminal sends SIGINT to every process of the foreground group. If the server ended with it, the client would try for
minutes to send the run's last events. This server runs until the client stops it by SIGTERM.
"""

import signal
import subprocess
from typing import Any

from prefect.server.api.server import SubprocessASGIServer


class ShieldedServer(SubprocessASGIServer):
    """Prefect has one instance per port, looked up by the base class: an instance that exists already is used.

    SIGINT is blocked, not ignored: uvicorn installs its own handler, which would undo ignoring it.
    """

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super()._run_uvicorn_command()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shield_ephemeral_server() -> None:
    """Make the next ephemeral server of this process a shielded one. Starts nothing."""
    ShieldedServer()
