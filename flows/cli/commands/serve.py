"""`logitlake serve`: every flow on its schedule, on one machine."""

import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from logitlake.flows.cli.options import LakeOptions, flag
from logitlake.flows.runtime.environment import arrange_prefect, prefect_home, server_is_configured
from logitlake.flows.runtime.termination import TerminatedError
from logitlake.flows.serve.local_server import local_server
from logitlake.flows.settings import DEFAULT_CONFIG, location_of, require_capture_settings
from logitlake.flows.terminal.output import say
from logitlake.storage.errors import SettingsError
from logitlake.storage.redaction import has_password


@dataclass(frozen=True, kw_only=True)
class ServeOptions(LakeOptions):
    """The server's port."""

    port: Annotated[
        int | None, flag("schedule.port", "--port", help="Port of the Prefect server, if one is started")
    ] = None


def serve(options: ServeOptions) -> None:
    """Run capture, generate, redistill and maintain on their schedules until you stop it; Ctrl-C pauses the schedules.

    Starts a Prefect server if none is configured (PREFECT_API_URL); its state is in the lake's folder. Each run reads
    the settings file again: a change takes effect at the next run, except in the section `schedule`.
    """
    config, config_file = options.config(), options.config_file
    require_capture_settings(config)
    _refuse_passwords(options.overrides or ())
    location = location_of(config)
    if config_file is None and DEFAULT_CONFIG.is_file():
        config_file = DEFAULT_CONFIG
    # Until Prefect's own handler is there: Python's default would end the process at once, and its server later.
    signal.signal(signal.SIGTERM, _terminate)
    with ExitStack() as stack:
        home = Path(os.environ.get("PREFECT_HOME") or prefect_home(location))
        in_lake_folder = "PREFECT_HOME" not in os.environ
        own_server = not os.environ.get("PREFECT_API_URL") and (not in_lake_folder or not server_is_configured())
        if own_server:
            say(f"starting a Prefect server with its state in {home}")
            host, number = config.schedule.host, config.schedule.port
            os.environ["PREFECT_API_URL"] = stack.enter_context(local_server(home, host, number))
            os.environ["PREFECT_HOME"] = str(home)
        arrange_prefect(location)
        from prefect import serve as serve_forever
        from prefect.settings import get_current_settings

        from logitlake.flows.runtime.limits import ensure_limit
        from logitlake.flows.serve.automations import arrange_automations
        from logitlake.flows.serve.dead_runs import crash_dead_runs, subflows_watched
        from logitlake.flows.serve.deployments import deployments, remove_other_deployments

        in_own_folder = own_server and in_lake_folder and location.state_directory is not None
        given = (config_file, options.overrides or (), options.lake)
        served = deployments(config, *given, own_server=in_own_folder)
        ensure_limit(config.schedule.teachers)
        arrange_automations(config.schedule)
        if own_server:
            crash_dead_runs(location)
            if in_lake_folder:
                remove_other_deployments(served, location)
        stack.enter_context(subflows_watched())
        api = get_current_settings().api.url or ""
        say(f"serving lake {location.data}, time zone {config.schedule.timezone}; web page: {api.removesuffix('/api')}")
        serve_forever(*served, print_starting_message=False)


def _refuse_passwords(overrides: Sequence[str]) -> None:
    """Raise SettingsError for an override with a password: Prefect keeps the overrides in its database."""
    for override in overrides:
        if has_password(override):
            raise SettingsError(
                f"--set {override}: found a password, which Prefect's database and web page would show: write the "
                "setting into the settings file, or keep the password in ~/.pgpass or PGPASSWORD"
            )


def _terminate(number: int, frame: object) -> None:
    raise TerminatedError
