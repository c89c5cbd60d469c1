"""`logitlake demo`: the main job on a real teacher and real text."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from logitlake.flows.cli.options import DebugOption
from logitlake.flows.demo.settings import DemoPaths
from logitlake.flows.runtime.environment import arrange_prefect


@dataclass(frozen=True, kw_only=True)
class DemoOptions(DebugOption):
    """Where its files go."""

    directory: Annotated[Path, typer.Option("--directory", help="Directory for demo-lake/ and demo-out/.")] = Path()


def demo(options: DemoOptions) -> None:
    """Capture a real teacher over the Python standard library, train and measure a student, and ask questions in SQL.

    Takes minutes on two cores. A second run finds everything done and says so.
    """
    paths = DemoPaths.under(options.directory)
    # The demo loads nothing from a hub and has progress bars of its own.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    arrange_prefect(paths.location)
    from logitlake.flows.demo.run import run_demo

    run_demo(paths)
