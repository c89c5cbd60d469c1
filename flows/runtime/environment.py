"""Prefect's surroundings, arranged before Prefect is imported: it reads its settings at that moment.

With no server configured a flow runs in an ephemeral one whose database lies beside the lake, not in the user's home.
"""

import logging
import os
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import platformdirs

from logitlake.flows.runtime.termination import TerminatedError
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LogitlakeError, ServerStartError
from logitlake.storage.lake.location import LakeLocation

log = logging.getLogger(__name__)

_STARTUP = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
_DEFAULTS = {
    # A cold start of the ephemeral server takes 15 s on two cores, and minutes on busy ones; Prefect gives it 20 s.
    _STARTUP: "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Prefect's own 180 s is longer than `schedule.zombie_seconds`: a healthy run would be taken for a dead one.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
# What tells our runs from others on a shared server: notifications and the automation for dead runs go by it.
TAG = "logitlake"
Report = TypeVar("Report")

_SERVER_VARIABLES = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME")


def run_flow(flow: Callable[[Config], Report], config: Config) -> Report:
    """Run a flow to its end in the main thread. Raises TerminatedError on SIGTERM.

    Prefect notes the termination and then calls the handler of before. Python's own would end the process at once and
    leave the ephemeral server running; this one lets it unwind.
    """
    # Imported here: this module arranges what Prefect reads when it is imported.
    from prefect import tags

    from logitlake.flows.runtime.ephemeral_server import shield_ephemeral_server

    shield_ephemeral_server()
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(without_traceback)

    def terminate(number: int, frame: object) -> None:
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with tags(TAG):
            return flow(config)
    except RuntimeError as error:
        if "ephemeral" not in str(error):
            raise
        raise ServerStartError(
            f"Prefect's own server did not come up within {os.environ.get(_STARTUP, '20')} s: give it longer by "
            f"{_STARTUP}, or name a server that runs already by PREFECT_API_URL"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def without_traceback(record: logging.LogRecord) -> bool:
    """Prefect logs every error with its traceback; ours are sentences, and `--debug` shows where they came from."""
    if record.exc_info and isinstance(record.exc_info[1], LogitlakeError):
        record.exc_info = None
    return True


def arrange_prefect(location: LakeLocation) -> None:
    """Set what is not set yet in the environment: no telemetry, a patient start, a home of its own, a quiet terminal.

    Does nothing once Prefect has been imported: a worker or a test has arranged its own.
    """
    if "prefect" in sys.modules:
        return
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if sys.stderr.isatty():
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    if not server_is_configured():
        home = prefect_home(location)
        home.mkdir(parents=True, exist_ok=True)
        os.environ["PREFECT_HOME"] = str(home)
        if sys.stderr.isatty():
            log.info("no Prefect server is configured: starting one for this run, which takes some seconds")


def server_is_configured() -> bool:
    """Whether this user has told Prefect where its server is, by environment or by a profile."""
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
    """Where the ephemeral server keeps its database: beside an embedded lake, else in the user's state directory."""
    if location.state_directory is not None:
        return location.state_directory / "prefect"
    return Path(platformdirs.user_state_dir("logitlake")) / "prefect"
