"""`logitlake report`: what a lake holds and what it taught, as one page."""

from pathlib import Path
from typing import Annotated

import typer

from logitlake.flows.cli.options import ConfigFile, Debug, LakePath, Overrides
from logitlake.flows.report.place import default_path
from logitlake.flows.settings import location_of, settings
from logitlake.flows.terminal.output import say
from logitlake.storage.lake.lake import Lake


def report(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where the page goes; default: report.html in the lake.", show_default=False
        ),
    ] = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Write one HTML page that needs nothing but itself: what is in the lake, how it grew, bytes, fidelity, students,
    costs, and the most instructive passages token by token. The path is printed on standard output.
    """
    config = settings(config_file, overrides, {"lake.path": lake})
    location = location_of(config)
    path = (output or default_path(location)).expanduser().absolute()
    with Lake.open(location) as opened:
        # Imported here: the plotting library is no business of the other commands.
        from logitlake.flows.report.page import write_report

        write_report(opened, path)
    say(f"{path.stat().st_size / 1e6:.1f} MB, opens in any browser, from disk")
    print(path)
