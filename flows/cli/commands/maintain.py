"""`logitlake maintain`: keep the lake tidy."""

from functools import partial
from typing import Annotated

import typer

from logitlake.flows.cli.options import ConfigFile, Debug, LakePath, OutputFormat, Overrides
from logitlake.flows.runtime.environment import arrange_prefect, run_flow
from logitlake.flows.settings import location_of, settings
from logitlake.flows.terminal.output import Format, print_record
from logitlake.storage.lake.lake import Lake


def maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    verify_all: Annotated[bool, typer.Option("--verify-all", help="Check every row, not a sample.")] = False,
    grace_hours: Annotated[
        float | None,
        typer.Option(
            "--grace-hours",
            min=0,
            help="How long files that nothing names are kept for running readers (maintenance.grace_hours).",
            show_default=False,
        ),
    ] = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Verify a sample, merge small shards, expire snapshots, remove files that nothing names.

    No row changes by it, and captures and readers may run meanwhile. Rows of forgotten documents leave the disk here.
    """
    config = settings(config_file, overrides, {"lake.path": lake, "maintenance.grace_hours": grace_hours})
    location = location_of(config)
    if dry_run:
        from logitlake.flows.maintain.run import MaintainRun

        with MaintainRun(config, dry_run=True, verify_all=verify_all) as run:
            run.verify()
            run.merge()
            run.sweep()
        print_record(run.report.as_record(), form, title="Upkeep would do")
        return
    Lake.open(location).close()  # a lake that is not there is said before a server is started
    arrange_prefect(location)
    from logitlake.flows.maintain.flow import maintain as flow

    report = run_flow(partial(flow, verify_all=verify_all), config)
    print_record(report.as_record(), form, title="Upkeep")
