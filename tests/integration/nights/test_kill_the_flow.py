"""kill -9 in the middle of each stage of a night, against a real server; the nights after it have everything once."""

import os
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from benchmarks.nights import computed_twice, finished_nights
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.lake.lake import Lake
from logitlake.storage.verification.verify import verify

pytestmark = pytest.mark.slow

# In the order in which nights reach them. The first file of a night is a shard, once the recipe is known; the first
# transaction says that it has begun, the second is the first unit's.
CAPTURE = ("unit-computed:2", "file-staged", "file-renamed", "rows-registered:2", "committed:2")
STUDENT = ("candidate-planned", "student-training:4", "student-trained", "student-evaluated", "student-registered")
UPKEEP = ("file-renamed", "rows-registered:2", "shards-merged", "snapshots-expired", "files-removed")
PATIENCE_SECONDS = 240


def _runs_in(server: Any, *states: str) -> list[str]:
    """Names of the flow runs in one of these states."""
    asked = {"flow_runs": {"state": {"type": {"any_": states}}}, "limit": 200}
    answer = httpx.post(f"{server.api}/flow_runs/filter", json=asked, timeout=30)
    return [run["name"] for run in answer.raise_for_status().json()]


def _whole(config: Config) -> None:
    """Nothing torn, nothing twice."""
    with Lake.open(location_of(config)) as lake:
        assert all(not check.problem for check in verify(lake))
    assert computed_twice(config) == 0


def test_a_night_that_is_killed_in_every_stage_of_it_goes_on_each_time_where_it_was(
    config: Config, logitlake: Callable[..., int], add: Callable[[int, int], None]
) -> None:
    add(0, 30)
    for stage in (*CAPTURE, *STUDENT, "candidate-decided"):
        logitlake("redistill", "--set", "capture.unit_tokens=100", kill_at=stage)
        _whole(config)
        with Lake.open(location_of(config)) as lake:
            captured = lake.row("SELECT count(*) AS n FROM documents")["n"]
        assert (captured < 30) == (stage in CAPTURE), f"{captured} documents when it was killed at {stage}"
        if stage.startswith("student-training"):
            assert list((config.lake.path / "students").glob(".*/checkpoints/checkpoint-3"))
    logitlake("redistill")
    _whole(config)
    with Lake.open(location_of(config)) as lake:
        assert lake.row("SELECT count(*) AS n FROM documents")["n"] == 30
        decided = lake.sql("SELECT student_id, decision FROM promotions").to_pylist()
        assert [row["decision"] for row in decided] == ["promoted"]
        assert lake.row("SELECT count(*) AS n FROM store.students")["n"] == 1
    assert finished_nights(config)[-1]["outcome"] == "nothing new"
    directories = [path.name for path in (config.lake.path / "students").iterdir()]
    assert directories == [decided[0]["student_id"]], "nothing half done is left"


def test_upkeep_that_is_killed_in_every_stage_of_it_changes_no_row(
    config: Config, logitlake: Callable[..., int], add: Callable[[int, int], None]
) -> None:
    query = "SELECT doc_id, window_index, checksum FROM sequences ORDER BY ALL"
    add(0, 20)
    logitlake("capture")
    add(20, 40)
    logitlake("capture")
    with Lake.open(location_of(config)) as lake:
        before = lake.sql(query)
    for stage in UPKEEP:
        logitlake("maintain", "--verify-all", "--grace-hours", "0", kill_at=stage)
        with Lake.open(location_of(config)) as lake:
            assert lake.sql(query).equals(before), stage
    # Whatever the grace, a file of the last hour may be one that a capture is about to register.
    data = config.lake.path / "data"
    long_ago = time.time() - 7200
    for path in data.rglob("store/**/*"):
        os.utime(path, (long_ago, long_ago))
    logitlake("maintain", "--verify-all", "--grace-hours", "0")
    _whole(config)
    with Lake.open(location_of(config)) as lake:
        assert lake.sql(query).equals(before)
        assert lake.row("SELECT count(DISTINCT filename) AS n FROM store.sequences")["n"] == 1
        named = lake.sql("SELECT DISTINCT filename FROM store.sequences")["filename"].to_pylist()
    assert [str(path) for path in data.rglob("store/sequences/**/*.parquet")] == named, "old files and orphans are gone"
    assert not list(data.rglob("*.tmp"))


def test_runs_whose_process_was_killed_are_marked_as_crashed_and_somebody_is_told(
    watched: Any, mailbox: Any, config: Config, logitlake: Callable[..., int], add: Callable[[int, int], None]
) -> None:
    def told(*words: str) -> bool:
        return any(all(word in text for word in words) for text in mailbox.messages)

    add(0, 10)
    logitlake("redistill")
    add(10, 20)
    logitlake("redistill", kill_at="unit-computed")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _runs_in(watched, "RUNNING", "PENDING") or not (told("Crashed") and told("logitlake.promoted")):
        assert time.monotonic() < deadline, (_runs_in(watched, "RUNNING", "PENDING"), mailbox.messages)
        time.sleep(1)
    assert _runs_in(watched, "CRASHED")
    assert not _runs_in(watched, "FAILED")
    assert told("logitlake.promoted", "there was no student before")
