"""The whole service killed again and again while a night and an upkeep are under way; it goes on by itself."""

import random
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.nights import computed_twice
from logitlake.flows.settings import location_of
from logitlake.storage.lake.lake import Lake
from logitlake.storage.verification.verify import verify
from tests.integration.nights.service import Service

NIGHT_PLACES = (
    *("unit-computed", "candidate-planned", "student-training:2", "student-trained"),
    *("student-evaluated", "student-registered", "candidate-decided"),
)
# The last two hold the lake's lock.
UPKEEP_PLACES = ("units-verified", "shards-merged", "snapshots-expired", "files-removed")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
DOCUMENTS = 10


@dataclass(frozen=True)
class Kill:
    """A signal to every process of the service, while a night and an upkeep are held at these places."""

    signal: signal.Signals
    night: str
    upkeep: str


@dataclass(frozen=True)
class Restart:
    """What was found after a kill: runs and subflows that had begun, and seconds from the start of the command until
    they were marked as crashed, and until the night that had waited ran."""

    kill: Kill
    n_dead: int
    marked_seconds: float
    running_seconds: float


def random_kills(n: int, seed: int) -> list[Kill]:
    """The same kills for the same seed."""
    draw = random.Random(seed)
    return [Kill(draw.choice(SIGNALS), draw.choice(NIGHT_PLACES), draw.choice(UPKEEP_PLACES)) for _ in range(n)]


def play(service: Service, add: Callable[[int, int], None], kills: Sequence[Kill]) -> list[Restart]:
    """Kill the service once for each of `kills`; at the end it has done all its work. Raises AssertionError if not."""
    restarts: list[Restart] = []
    add(0, DOCUMENTS)
    service.start(_places(kills[0]))
    night = service.create_run("redistill")
    for number, kill in enumerate(kills, 1):
        service.wait(lambda run=night: run in service.held(), f"night {night} to be at {kill.night}")
        # It waits for the first night, and nobody starts it again.
        waiting = service.create_run("redistill")
        service.wait(lambda run=waiting: service.run(run)["state_name"] == "AwaitingConcurrencySlot", "a night to wait")
        upkeep = service.create_run("maintain")
        service.wait(lambda run=upkeep: run in service.held(), f"upkeep {upkeep} to be at {kill.upkeep}")
        dead = service.begun()
        assert {night, upkeep} < dead, "the night and the upkeep are under way, with their subflows"
        service.kill(kill.signal)
        add(number * DOCUMENTS, (number + 1) * DOCUMENTS)
        began = time.monotonic()
        service.start(_places(kills[number]) if number < len(kills) else "")
        marked = time.monotonic() - began
        assert _states(service, dead) == {"CRASHED"}
        service.wait(lambda run=waiting: service.run(run)["state_type"] == "RUNNING", f"night {waiting} to run")
        restarts.append(Restart(kill, len(dead), marked, time.monotonic() - began))
        night = waiting
    upkeep = service.create_run("maintain")
    for run_id in (night, upkeep):
        service.wait(lambda run=run_id: service.run(run)["state_type"] == "COMPLETED", f"run {run_id} to complete")
    _check_whole(service, (len(kills) + 1) * DOCUMENTS)
    return restarts


def _places(kill: Kill) -> str:
    return f"{kill.night},{kill.upkeep}"


def _states(service: Service, runs: Iterable[str]) -> set[str]:
    return {service.run(run)["state_type"] for run in runs}


def _check_whole(service: Service, n_documents: int) -> None:
    """No run is left half done, no slot is taken, nothing was lost or computed twice, every student is decided."""
    assert service.begun() == set()
    assert not any(service.slots().values())
    assert {run["state_type"] for run in service.runs().values()} <= {"CRASHED", "COMPLETED"}
    with Lake.open(location_of(service.config)) as lake:
        assert all(not check.problem for check in verify(lake))
        assert lake.row("SELECT count(*) AS n FROM documents")["n"] == n_documents
        decided = lake.sql("SELECT student_id FROM promotions")["student_id"].to_pylist()
        registered = lake.sql("SELECT student_id FROM store.students")["student_id"].to_pylist()
    assert registered
    assert sorted(registered) == sorted(decided)
    assert computed_twice(service.config) == 0
