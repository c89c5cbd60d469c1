"""`logitlake report`: the contents of a lake and its students as one HTML page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from logitlake.flows.cli.options import LakeOptions, option
from logitlake.flows.report.default_path import default_path
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import say
from logitlake.flows.terminal.quantities import bytes_text
from logitlake.storage.lake.lake import Lake


@dataclass(frozen=True, kw_only=True)
class ReportOptions(LakeOptions):
    """Where the page goes."""

    output: Annotated[
        Path | None, option("--output", "-o", help="File to write; default: report.html in the lake's folder.")
    ] = None


def report(options: ReportOptions) -> None:
    """Write one self-contained HTML page: the lake's contents and growth, bytes per token, fidelity, students, costs,
    and the most instructive passages token by token. Prints its path on standard output.
    """
    location = location_of(options.config())
    path = (options.output or default_path(location)).expanduser().absolute()
    with Lake.open(location) as lake:
        # Imported here: the plotting library is slow to import.
        from logitlake.flows.report.page import write_report

        write_report(lake, path)
    say(f"wrote {bytes_text(path.stat().st_size)}; the page opens in any browser, without a network")
    print(path)
