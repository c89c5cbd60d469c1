"""Kill every operation many times, and check every promise: `python -m tests.crash --kills 1000 --seed 1`."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.crash.quiet import set_environment


def main(given: Sequence[str] | None = None) -> int:
    """Play the cases; exit code 1 if one found a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="kills that meet work under way")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="K", help="play case K again, with those before it on its lake")
    parser.add_argument("--operation", action="append", help="only operations of this name; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="processes that play at once, each on its own lakes")
    arguments = parser.parse_args(given)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        set_environment(Path(name))
        return _play_all(arguments, Path(name))


def _play_all(arguments: argparse.Namespace, directory: Path) -> int:
    # Imported here: torch and transformers look at the environment when they are imported.
    from tests.crash.campaign import PERIOD, joined
    from tests.crash.part import play
    from tests.crash.summary import line, table

    numbers = range(arguments.kills)
    if arguments.only is not None:
        numbers = range(arguments.only - arguments.only % PERIOD, arguments.only + 1)
    parts = [[n for n in numbers if n // PERIOD % arguments.jobs == job] for job in range(arguments.jobs)]
    of_campaign = partial(play, seed=arguments.seed, names=arguments.operation)
    if arguments.jobs == 1:
        findings = of_campaign(directory, parts[0])
    else:
        quiet = {"initializer": logging.disable, "initargs": (logging.WARNING,)}
        with ProcessPoolExecutor(arguments.jobs, get_context("spawn"), **quiet) as pool:
            directories = [directory / f"job {job}" for job in range(arguments.jobs)]
            findings = joined(list(pool.map(of_campaign, directories, parts)))
    print(table(findings))
    print()
    print(line(findings))
    for problem in findings.problems:
        print(f"seed {findings.seed}, {problem}")
    return 1 if findings.problems else 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
