"""`logitlake demo`: the main job on a real teacher and real text."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import Debug
from flows.orchestration import arrange_prefect


def demo(
    directory: Annotated[Path, typer.Option("--directory", help="Where demo-lake/ and demo-out/ go.")] = Path(),
    debug: Debug = False,
) -> None:
    """Cache a real teacher over the Python standard library, train a student from the cache, measure it, ask in SQL.

    Takes minutes on two cores. Run again it finds that everything is there, and says so.
    """
    from flows.demo import DemoPaths, run_demo

    paths = DemoPaths.under(directory)
    arrange_prefect(paths.location)
    run_demo(paths)
