"""`logitlake serve`: everything by the clock, on one machine."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from logitlake.flows.cli.options import ConfigFile, Debug, LakePath, Overrides
from logitlake.flows.runtime.environment import arrange_prefect, prefect_home, server_is_configured
from logitlake.flows.serve.local_server import local_server
from logitlake.flows.settings import DEFAULT_CONFIG, location_of, require_capture_settings, settings
from logitlake.flows.terminal.output import say


def serve(
    port: Annotated[
        int | None,
        typer.Option("--port", help="Port of the server, if one is started (schedule.port).", show_default=False),
    ] = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Run capture, redistill and maintain by their schedules until it is stopped; Ctrl-C ends it, and schedules pause.

    A Prefect server is started if none is configured (PREFECT_API_URL); its state lies under the lake's folder. Runs
    read the settings file when they start: an edit holds from the next run on, but for the section `schedule`.
    """
    config = settings(config_file, overrides, {"lake.path": lake, "schedule.port": port})
    require_capture_settings(config)
    location = location_of(config)
    if config_file is None and DEFAULT_CONFIG.is_file():
        config_file = DEFAULT_CONFIG
    with ExitStack() as stack:
        home = Path(os.environ.get("PREFECT_HOME") or prefect_home(location))
        if not os.environ.get("PREFECT_API_URL") and ("PREFECT_HOME" in os.environ or not server_is_configured()):
            say(f"starting a Prefect server, its state in {home}")
            host, number = config.schedule.host, config.schedule.port
            os.environ["PREFECT_API_URL"] = stack.enter_context(local_server(home, host, number))
            os.environ["PREFECT_HOME"] = str(home)
        arrange_prefect(location)
        from prefect import serve as serve_forever
        from prefect.settings import get_current_settings

        from logitlake.flows.runtime.limits import ensure_limit
        from logitlake.flows.serve.automations import arrange_automations
        from logitlake.flows.serve.deployments import deployments, refuse_another_lake

        wanted = deployments(config, config_file, overrides or (), lake)
        refuse_another_lake(wanted, location)
        ensure_limit(config.schedule.teachers)
        arrange_automations(config.schedule)
        api = get_current_settings().api.url or ""
        say(f"serving the lake {location.data} in {config.schedule.timezone}; see {api.removesuffix('/api')}")
        serve_forever(*wanted, print_starting_message=False)
