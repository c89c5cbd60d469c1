"""The whole service killed in every stage of its runs: dead runs end, their slots are free, the next run goes on."""

import signal
from collections.abc import Callable
from itertools import cycle

import pytest

from tests.integration.nights.service import Service
from tests.integration.nights.whole_kills import NIGHT_PLACES, UPKEEP_PLACES, Kill, play, random_kills

pytestmark = pytest.mark.slow


def test_a_service_that_is_killed_in_every_stage_goes_on_each_time(
    service: Service, add: Callable[[int, int], None]
) -> None:
    play(service, add, [Kill(signal.SIGKILL, *places) for places in zip(NIGHT_PLACES, cycle(UPKEEP_PLACES))])


def test_a_service_that_is_terminated_in_every_stage_of_upkeep_and_at_random_goes_on_each_time(
    service: Service, add: Callable[[int, int], None]
) -> None:
    nights = ("student-training:2", "unit-computed", "student-evaluated", "candidate-decided")
    play(service, add, [Kill(signal.SIGTERM, *places) for places in zip(nights, UPKEEP_PLACES, strict=True)])


def test_the_same_seed_gives_the_same_kills_and_every_seed_others() -> None:
    assert random_kills(20, 1) == random_kills(20, 1) != random_kills(20, 2)
    places = {kill.night for kill in random_kills(200, 3)}
    assert places == set(NIGHT_PLACES)


def test_a_run_that_is_killed_before_its_process_begins_ends_and_the_next_one_runs(
    service: Service, add: Callable[[int, int], None]
) -> None:
    add(0, 10)
    service.start()
    run = service.create_run("capture")
    service.wait(lambda: service.run(run)["state_type"] == "PENDING", "a run that is about to begin")
    service.kill(signal.SIGKILL)
    service.start()
    dead = service.run(run)
    assert (dead["state_type"], dead["run_count"]) == ("CRASHED", 0)
    again = service.create_run("capture")
    service.wait(lambda: service.run(again)["state_type"] == "COMPLETED", "the next capture to complete")
