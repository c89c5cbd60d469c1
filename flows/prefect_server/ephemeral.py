"""The server that Prefect starts for one run if none is configured.

It is protected from the terminal's Ctrl-C: a terminal sends SIGINT to every process of the foreground group, and if the
server ended with it, the client would try for minutes to send the run's last events. It runs until the client stops it
by SIGTERM, and ends by itself when the client is killed.
"""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import prefect
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

from logitlake.flows.prefect_server.tied_process import tied_command

# What Prefect sets for its own ephemeral server.
_ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class ShieldedServer(SubprocessASGIServer):
    """Prefect has one instance per port, looked up by the base class: an instance that exists already is used.

    SIGINT is blocked, not ignored: uvicorn installs its own handler, which would undo ignoring it.
    """

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        """Prefect's own command, as a process that is tied to this one."""
        source = Path(prefect.__file__).parents[1]
        application = ["--app-dir", str(source), "--factory", "prefect.server.api.server:create_app"]
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        command = tied_command("uvicorn", *application, *address, "--log-level", "error", "--lifespan", "on")
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return subprocess.Popen(command, env={**os.environ, **_ENVIRONMENT, **settings})
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shield_ephemeral_server() -> None:
    """Make the next ephemeral server of this process a shielded one. Starts nothing."""
    ShieldedServer()
