"""Kill every operation many times, and check every promise: `python -m tests.crash --kills 1000 --seed 1`."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.crash.quiet import set_environment


def main(given: Sequence[str] | None = None) -> int:
    """Play the cases; exit code 1 if one found a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="kills that meet work under way")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="K", help="play case K again, with those before it on its lake")
    parser.add_argument("--operation", action="append", help="only operations of this name; may be repeated")
    arguments = parser.parse_args(given)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        set_environment(Path(name))
        return _play(arguments, Path(name))


def _play(arguments: argparse.Namespace, directory: Path) -> int:
    # Imported here: torch and transformers look at the environment when they are imported.
    import duckdb

    from tests.crash.all_operations import OPERATIONS
    from tests.crash.campaign import PERIOD, Campaign, Case
    from tests.crash.site import make_site
    from tests.crash.summary import line, table
    from tests.quick_duckdb import connect_quickly

    duckdb.connect = connect_quickly
    operations = [o for o in OPERATIONS if not arguments.operation or o.name in arguments.operation]
    if not operations:
        sys.exit(f"--operation: expected one of {', '.join(o.name for o in OPERATIONS)}")
    numbers = range(arguments.kills)
    if arguments.only is not None:
        numbers = range(arguments.only - arguments.only % PERIOD, arguments.only + 1)

    def show(case: Case) -> None:
        print(f"{case.number:5d} {case.operation:14s} {case.signal} {case.place}", file=sys.stderr, flush=True)

    campaign = Campaign(make_site(directory), directory, operations, seed=arguments.seed, on_case=show)
    findings = campaign.run(numbers)
    print(table(findings))
    print()
    print(line(findings))
    for problem in findings.problems:
        print(f"seed {findings.seed}, {problem}")
    return 1 if findings.problems else 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
