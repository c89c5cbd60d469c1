"""Who works on one lake at the same time: writers, readers and a student, each in a process of its own."""

import os
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import duckdb

from logitlake.storage import failpoints
from logitlake.storage.lake.lake import Lake
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.runs import note_run
from tests.crash.contents import Contents, doubled, facts_of, lost, torn_documents
from tests.crash.model_operations import train
from tests.crash.rows import made_rows, made_sources, recipe_of
from tests.crash.site import Site
from tests.quick_duckdb import connect_quickly

UNITS = 8
Role = Callable[[Site, int, Connection], Any]


@dataclass(slots=True)
class Worker:
    """A process, the end of its pipe, and what it answered."""

    process: BaseProcess
    pipe: Connection
    answer: Any = None
    error: str = field(default="")

    def finish(self) -> None:
        """Wait for its end; `error` is empty if it did all of its work."""
        try:
            self.answer, self.error = self.pipe.recv()
        except EOFError:
            self.error = "it was killed"
        self.process.join()


def start(role: Role, site: Site, number: int = 0, kill_at: str | None = None) -> Worker:
    """Start one of the crowd. `kill_at`: the failpoint at which it is killed."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(role, site, number, there, kill_at))
    process.start()
    there.close()
    return Worker(process, here)


def unit_names(writer: int, unit: int) -> list[str]:
    """The documents of a unit: one that only this writer has, and one that its neighbour has as well."""
    return [f"writer {writer} unit {unit}", f"writers {writer // 2} unit {unit}"]


def write(site: Site, number: int, pipe: Connection) -> int:
    """Commit units, some documents of which another writer commits at the same time."""
    recipe, run_id = recipe_of(), f"writer {number} process {os.getpid()}"
    with Lake.open(site.location, read_only=False) as lake:
        note_run(lake, run_id, "started", kind="capture", recipe_id=None)
        for unit in range(UNITS):
            names = unit_names(number, unit)
            rows, sources = made_rows(names, recipe), made_sources(names)
            commit_unit(lake, rows, recipe=recipe, run_id=run_id, seconds=1.0, sources=sources)
    return UNITS


def read(site: Site, number: int, pipe: Connection) -> list[str]:
    """Look at everything again and again until told to stop; returns what was torn, doubled or lost."""
    seen: Contents = Counter()
    problems: list[str] = []
    while not pipe.poll():
        with Lake.open(site.location) as lake:
            now = facts_of(lake)
        problems += [*doubled(now), *torn_documents(now), *lost(seen, now)]
        seen = now
    return problems


def learn(site: Site, number: int, pipe: Connection) -> str:
    """Train a student, evaluate and register it; returns its id."""
    training = site.config.training.model_copy(update={"output": site.directory / "crowd student", "seed": 5})
    return str(train(site.config.model_copy(update={"training": training})).student_id)


def _work(role: Role, site: Site, number: int, pipe: Connection, kill_at: str | None) -> None:
    duckdb.connect = connect_quickly
    if kill_at is not None:
        os.environ[failpoints.ENVIRONMENT_VARIABLE] = kill_at
    try:
        pipe.send((role(site, number, pipe), ""))
    except Exception:
        pipe.send((None, traceback.format_exc()))
