"""`logitlake redistill`: one night of new data."""

from typing import Annotated

import typer

from logitlake.flows.cli.commands.capture import find_cheap_mistakes
from logitlake.flows.cli.options import ConfigFile, Debug, LakePath, MaxHours, MaxTokens, OutputFormat, Overrides
from logitlake.flows.redistill.run import require_redistill_settings
from logitlake.flows.runtime.environment import arrange_prefect, run_flow
from logitlake.flows.settings import location_of, settings
from logitlake.flows.terminal.output import Format, print_record, say


def redistill(
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
    alias: Annotated[
        str | None,
        typer.Option("--alias", help="Name of the line of students (redistill.alias).", show_default=False),
    ] = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Capture what is missing, train the current student on it, and promote the result if it is no worse.

    Nothing new: done in seconds. Stopped at any moment, run it again: it goes on where it was.
    """
    flags = {
        "lake.path": lake,
        "capture.max_tokens": max_tokens,
        "capture.max_hours": max_hours,
        "redistill.alias": alias,
    }
    config = settings(config_file, overrides, flags)
    require_redistill_settings(config)
    find_cheap_mistakes(config)
    location = location_of(config)
    arrange_prefect(location)
    from logitlake.flows.redistill.flow import redistill as flow

    report = run_flow(flow, config)
    print_record(report.as_record(), form, title="Redistilled")
    say(f"{report.outcome}: {report.reason}")
