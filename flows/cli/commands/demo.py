"""`logitlake demo`: the main job on a real teacher and real text."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from logitlake.flows.cli.options import Debug
from logitlake.flows.demo.settings import DemoPaths
from logitlake.flows.runtime.environment import arrange_prefect


def demo(
    directory: Annotated[Path, typer.Option("--directory", help="Where demo-lake/ and demo-out/ go.")] = Path(),
    debug: Debug = False,
) -> None:
    """Cache a real teacher over the Python standard library, train a student from the cache, measure it, ask in SQL.

    Takes minutes on two cores. Run again it finds that everything is there, and says so.
    """
    paths = DemoPaths.under(directory)
    # Nothing comes from a hub, and the demo draws bars of its own.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    arrange_prefect(paths.location)
    from logitlake.flows.demo.run import run_demo

    run_demo(paths)
