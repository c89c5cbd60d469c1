"""The whole of it with a real server, a work pool, a worker and a schedule of seconds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.nights import Stage, play
from logitlake.pipeline.settings.models import Config
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from logitlake.storage.verification.verify import verify

pytestmark = pytest.mark.slow


def test_three_nights_by_the_clock_new_nothing_new_and_a_bad_training(
    tmp_path: Path, config: Config, add: Callable[[int, int], None], free_port: int
) -> None:
    def arrive(night: int) -> None:
        add(0, 30) if night == 1 else add(30, 50)

    with Stage(tmp_path, port=free_port, interval=15) as stage:
        found = play(stage, config, arrive)
        states = stage.prefect("flow-run", "ls", "--limit", "50")
    assert found["captured"] == [30, 0, 20]
    assert (found["promoted"], found["rejected"], found["computed_twice"]) == (1, 1, 0)
    assert "FAILED" not in states.upper() and "CRASHED" not in states.upper()
    with Lake.open(LakeLocation.resolve(tmp_path / "lake")) as lake:
        current = lake.row("SELECT student_id FROM aliases WHERE alias = 'current'")["student_id"]
        seen = lake.sql("SELECT * FROM lineage WHERE student_id = ?", [current]).to_pylist()
        assert [row["depth"] for row in seen] == [0] and seen[0]["n_sequences"] > 0
        worse = "SELECT (figures ->> '$.difference')::DOUBLE AS by_nats FROM promotions WHERE decision = 'rejected'"
        assert lake.row(worse)["by_nats"] > 0.01, "it was measured, and the figures are kept"
        assert all(not check.problem for check in verify(lake))
