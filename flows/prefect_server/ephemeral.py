"""The server that Prefect starts for one run if none is configured.

It is protected from the terminal's Ctrl-C: a terminal sends SIGINT to every process of the foreground group, and if the
server ended with it, the client would try for minutes to send the run's last events. It runs until the client stops it
by SIGTERM, and ends by itself when the client is killed. What it prints is kept, not shown: of a full disk it would
print a traceback of 50 lines for every request.
"""

import io
import os
import signal
import subprocess
import threading
from collections import deque
from pathlib import Path
from typing import Any

import prefect
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

from logitlake.flows.prefect_server.tied_process import tied_command
from logitlake.storage.connection.disk_errors import disk_problem
from logitlake.storage.errors import LakeError, ServerStartError

# Lines of the server's output that are kept: a traceback of SQLAlchemy has about 100.
_KEPT_LINES = 300
# uvicorn's exit code of a server that could not start. Prefect tries another port each time, as often as it likes.
_NO_START, _STARTS = 3, 3
_printed: deque[str] = deque(maxlen=_KEPT_LINES)

# What Prefect sets for its own ephemeral server.
_ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class ShieldedServer(SubprocessASGIServer):
    """Prefect has one instance per port, looked up by the base class: an instance that exists already is used.

    SIGINT is blocked, not ignored: uvicorn installs its own handler, which would undo ignoring it.
    """

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        """Prefect's own command, as a process that is tied to this one.

        Raises LakeError for a full disk, ServerStartError for a server that does not start for another reason.
        """
        self._starts = getattr(self, "_starts", 0) + 1
        if problem := server_disk_problem():
            raise LakeError(f"Prefect's server could not start: {problem}")
        if self._starts > _STARTS:
            raise ServerStartError(f"Prefect's server ended {_STARTS} times as it started. It printed: {_last_lines()}")
        source = Path(prefect.__file__).parents[1]
        application = ["--app-dir", str(source), "--factory", "prefect.server.api.server:create_app"]
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        command = tied_command("uvicorn", *application, *address, "--log-level", "error", "--lifespan", "on")
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, **_ENVIRONMENT, **settings},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert process.stdout is not None
        threading.Thread(target=_keep, args=(process.stdout,), name="server-output", daemon=True).start()
        process.stdout = None  # Prefect would read it too.
        return process


def server_disk_problem() -> str | None:
    """The reason and the advice if the server of this process printed that the disk is full; None otherwise."""
    home = get_current_settings().home
    return next((said for line in reversed(_printed) if (said := disk_problem(OSError(line), [home]))), None)


def _keep(stream: io.BufferedIOBase) -> None:
    with stream:
        for line in stream:
            _printed.append(line.decode(errors="replace").rstrip())


def _last_lines() -> str:
    return " / ".join(list(_printed)[-5:])


def shield_ephemeral_server() -> None:
    """Make the next ephemeral server of this process a shielded one. Starts nothing."""
    ShieldedServer()
