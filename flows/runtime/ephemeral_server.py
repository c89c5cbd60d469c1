"""The server that Prefect starts for one run where none is configured, out of reach of the terminal's Ctrl-C.

A terminal sends SIGINT to every process of the foreground group. A server that ends with it leaves the client to try
for minutes to reach it with the run's last events; this one lives until the client stops it by SIGTERM.
"""

import signal
import subprocess
from typing import Any

from prefect.server.api.server import SubprocessASGIServer


class ShieldedServer(SubprocessASGIServer):
    """Prefect keeps one instance per port and asks for it by the base class: one that was made before is the one used.

    uvicorn installs a handler of its own for SIGINT, which undoes ignoring it; a blocked signal stays blocked.
    """

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super()._run_uvicorn_command()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shield_ephemeral_server() -> None:
    """Have the next ephemeral server of this process be a shielded one. Starts nothing."""
    ShieldedServer()
