"""One part of a campaign: the cases that one process plays."""

import sys
from collections.abc import Sequence
from pathlib import Path

import duckdb

from tests.crash import all_operations, site
from tests.crash.campaign import Campaign, Case, Findings
from tests.quick_duckdb import connect_quickly


def play(directory: Path, numbers: Sequence[int], *, seed: int, names: Sequence[str] | None) -> Findings:
    """Play these cases with the operations of these names (None: all) in an empty directory."""
    duckdb.connect = connect_quickly
    operations = [o for o in all_operations.OPERATIONS if not names or o.name in names]
    if not operations:
        sys.exit(f"--operation: expected one of {', '.join(o.name for o in all_operations.OPERATIONS)}")
    directory.mkdir(exist_ok=True)
    return Campaign(site.make_site(directory), directory, operations, seed=seed, on_case=_show).run(numbers)


def _show(case: Case) -> None:
    print(f"{case.number:5d} {case.operation:14s} {case.signal} {case.place}", file=sys.stderr, flush=True)
