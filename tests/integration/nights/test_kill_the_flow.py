"""kill -9 in the middle of each stage of a night, against a real server; the night after it has everything once."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.nights import computed_twice, finished_nights
from flows.config_reference import documented_yaml
from flows.local_server import local_server
from flows.options import location_of
from pipeline.config import Config
from storage.failpoints import ENVIRONMENT_VARIABLE
from storage.lake import Lake
from storage.verify import verify

pytestmark = pytest.mark.slow

STAGES = (
    *("unit-computed", "file-renamed", "rows-registered", "candidate-planned", "student-training", "student-trained"),
    *("student-evaluated", "student-registered", "candidate-decided"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a command that uses a server of its own."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    home = tmp_path_factory.mktemp("prefect")
    with local_server(home, "127.0.0.1", port) as url:
        yield {"PREFECT_API_URL": url, "PREFECT_HOME": str(home)}


@pytest.fixture
def logitlake(server: dict[str, str], config: Config, tmp_path: Path) -> Callable[..., int]:
    """Runs a command to its end, or to the place at which it is killed; returns its code."""
    settings = tmp_path / "logitlake.yaml"
    settings.write_text(documented_yaml(config), encoding="utf-8")
    program = "from flows.cli import main; main()"

    def call(*arguments: str, kill_at: str = "") -> int:
        environment = {**os.environ, **server, ENVIRONMENT_VARIABLE: kill_at, "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-c", program, *arguments, "--config", str(settings)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    return call


@pytest.mark.parametrize("stage", STAGES)
def test_a_night_that_was_killed_goes_on_where_it_was(
    stage: str, config: Config, logitlake: Callable[..., int], add: Callable[[int, int], None]
) -> None:
    add(0, 30)
    assert logitlake("redistill", kill_at=stage) == -signal.SIGKILL
    assert logitlake("redistill") == 0
    with Lake.open(location_of(config)) as lake:
        assert lake.row("SELECT count(*) AS n FROM documents")["n"] == 30
        assert all(not check.problem for check in verify(lake))
        decided = lake.sql("SELECT student_id, decision FROM promotions").to_pylist()
        assert [row["decision"] for row in decided] == ["promoted"]
        assert lake.row("SELECT count(*) AS n FROM store.students")["n"] == 1
    assert computed_twice(config) == 0
    assert finished_nights(config)[-1]["outcome"] in ("promoted", "nothing new")
    directories = [path.name for path in (config.lake.path / "students").iterdir()]
    assert directories == [decided[0]["student_id"]], "nothing half done is left"


def test_training_that_was_killed_goes_on_from_its_last_checkpoint(
    config: Config, logitlake: Callable[..., int], add: Callable[[int, int], None]
) -> None:
    add(0, 30)
    logitlake("redistill", kill_at="student-training")
    checkpoints = list((config.lake.path / "students").glob(".*/checkpoints/checkpoint-*"))
    assert checkpoints
    assert logitlake("redistill") == 0
    assert not list((config.lake.path / "students").glob(".*"))


@pytest.mark.parametrize("stage", ["file-renamed", "rows-registered", "shards-merged"])
def test_upkeep_that_was_killed_changes_no_row(
    stage: str, config: Config, logitlake: Callable[..., int], add: Callable[[int, int], None]
) -> None:
    add(0, 30)
    assert logitlake("capture") == 0
    query = "SELECT doc_id, window_index, checksum FROM sequences ORDER BY ALL"
    with Lake.open(location_of(config)) as lake:
        before = lake.sql(query)
    assert logitlake("maintain", "--verify-all", kill_at=stage) == -signal.SIGKILL
    with Lake.open(location_of(config)) as lake:
        assert lake.sql(query).equals(before)
    assert logitlake("maintain", "--verify-all") == 0
    with Lake.open(location_of(config)) as lake:
        assert lake.sql(query).equals(before)
        assert lake.row("SELECT count(DISTINCT filename) AS n FROM store.sequences")["n"] == 1
