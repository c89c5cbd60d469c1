"""`logitlake maintain`: keep the lake tidy."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer

from logitlake.flows.cli.options import ResultOptions, flag
from logitlake.flows.runtime.environment import arrange_prefect, run_flow
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import print_record
from logitlake.storage.lake.lake import Lake


@dataclass(frozen=True, kw_only=True)
class MaintainOptions(ResultOptions):
    """How much is checked, and how long files are kept."""

    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; change nothing.")] = False
    verify_all: Annotated[bool, typer.Option("--verify-all", help="Check every row, not only a sample.")] = False
    grace_hours: Annotated[
        float | None,
        flag("maintenance.grace_hours", "--grace-hours", min=0, help="Keep unreferenced files this many hours"),
    ] = None


def maintain(options: MaintainOptions) -> None:
    """Verify a sample of the rows, merge small shards, expire snapshots, remove unreferenced files.

    No row is changed, and captures and readers may run at the same time. Rows of forgotten documents leave the disk.
    """
    config = options.config()
    location = location_of(config)
    if options.dry_run:
        from logitlake.flows.maintain.run import MaintainRun

        with MaintainRun(config, dry_run=True, verify_all=options.verify_all) as run:
            run.verify()
            run.merge()
            run.sweep()
        print_record(run.report.as_record(), options.form, title="Upkeep (dry run)")
        return
    Lake.open(location).close()  # a missing lake is an error before a server is started
    arrange_prefect(location)
    from logitlake.flows.maintain.flow import maintain as flow

    report = run_flow(partial(flow, verify_all=options.verify_all), config)
    print_record(report.as_record(), options.form, title="Upkeep")
