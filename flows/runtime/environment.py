"""Environment variables for Prefect, set before Prefect is imported, because it reads its settings at import.

If no server is configured a flow uses an ephemeral one whose database is beside the lake, not in the user's home.
"""

import logging
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import platformdirs

from logitlake.flows.prefect_server.proxies import reach_this_machine
from logitlake.flows.runtime.log_secrets import hide_secrets_in_logs
from logitlake.flows.runtime.termination import termination_raises
from logitlake.pipeline.settings.models import Config
from logitlake.storage.connection.disk_errors import ADVICE, free_bytes
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeError, LogitlakeError, ServerStartError

log = logging.getLogger(__name__)

_STARTUP = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
_DEFAULTS = {
    # A cold start of the ephemeral server takes 15 s on two cores, and minutes on busy ones; Prefect gives it 20 s.
    _STARTUP: "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Prefect's default of 180 s is longer than `schedule.zombie_seconds`: a healthy run would be marked as crashed.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # What runs log reaches the Prefect server too.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "logitlake",
    # Some lines come before the flow run starts or after it ends: these are not for the server.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
# Identifies our runs on a shared server: notifications and the automation for crashed runs match it.
TAG = "logitlake"
Report = TypeVar("Report")

# A new database takes 2 MB, its journal up to 4 MB; the rest is for the rows of the run.
_SERVER_BYTES = 8 << 20
_SERVER_VARIABLES = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME")


def run_flow(flow: Callable[[Config], Report], config: Config) -> Report:
    """Run a flow to its end in the main thread. Raises TerminatedError on SIGTERM.

    Prefect records the termination and then calls the previous handler. Python's default would end the process at once
    and leave the ephemeral server running; ours raises, so that everything is closed.
    """
    # Imported here: Prefect reads the variables that this module sets.
    import httpx
    from prefect import tags
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError

    from logitlake.flows.prefect_server.configured import lost_server, require_server
    from logitlake.flows.prefect_server.ephemeral import server_disk_problem, shield_ephemeral_server
    from logitlake.flows.prefect_server.unsent import drop_unsent, silence_prefect

    hide_secrets_in_logs()
    require_server()
    shield_ephemeral_server()
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(without_traceback)

    try:
        with termination_raises(), tags(TAG):
            return flow(config)
    except (httpx.HTTPError, ConcurrencySlotAcquisitionError) as error:
        full = server_disk_problem()
        lost = LakeError(f"Prefect's server failed: {full}") if full else lost_server()
        if lost is None:
            raise
        drop_unsent()
        silence_prefect()
        raise lost from error
    except RuntimeError as error:
        if "ephemeral" not in str(error):
            raise
        raise ServerStartError(
            f"Prefect's server did not start within {os.environ.get(_STARTUP, '20')} s: increase {_STARTUP}, or "
            "set PREFECT_API_URL to a running server"
        ) from error


def without_traceback(record: logging.LogRecord) -> bool:
    """A log filter: our own errors are logged without traceback; `--debug` prints it."""
    if record.exc_info and isinstance(record.exc_info[1], LogitlakeError):
        record.exc_info = None
    return True


def arrange_prefect(location: LakeLocation) -> None:
    """Set Prefect's variables that are not set yet: no telemetry, a long start-up timeout, a home beside the lake.

    Does nothing if Prefect is imported already, as in a worker or a test.
    """
    if "prefect" in sys.modules:
        return
    reach_this_machine()
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if sys.stderr.isatty():
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    if not server_is_configured():
        home = prefect_home(location)
        home.mkdir(parents=True, exist_ok=True)
        _require_room(home)
        os.environ["PREFECT_HOME"] = str(home)
        if sys.stderr.isatty():
            log.info("no Prefect server is configured: starting one for this run, which takes some seconds")


def _require_room(home: Path) -> None:
    """Raise LakeError if the database of Prefect's server has no room: the server would end without a word of it."""
    if (free := free_bytes(home)) < _SERVER_BYTES:
        raise LakeError(
            f"the disk is full: the database of Prefect's server needs {_SERVER_BYTES >> 20} MiB in {home}, and "
            f"{free:,} bytes are free: {ADVICE}; or set PREFECT_API_URL to a running server"
        )


def server_is_configured() -> bool:
    """Whether a Prefect server is configured, by environment or by profile."""
    if any(os.environ.get(name) for name in _SERVER_VARIABLES):
        return True
    profiles = Path.home() / ".prefect" / "profiles.toml"
    try:
        content = tomllib.loads(profiles.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False
    active = content.get("profiles", {}).get(content.get("active", ""), {})
    return "PREFECT_API_URL" in active


def prefect_home(location: LakeLocation) -> Path:
    """Directory of the ephemeral server's database: beside an embedded lake, else in the user's state directory."""
    if location.state_directory is not None:
        return location.state_directory / "prefect"
    return Path(platformdirs.user_state_dir("logitlake")) / "prefect"
