"""A stage for nights of new data (Prefect's server, work pool, shipped deployments, worker), and three nights on it."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.surroundings import REPOSITORY
from logitlake.flows.serve.local_server import local_server
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import say
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import documented_yaml
from logitlake.storage.errors import LakeError
from logitlake.storage.lake.lake import Lake

_POOL = "logitlake"
# For a machine on which much else runs; a quiet one needs a tenth.
_NIGHT_SECONDS = 1500
_POLL_SECONDS = 1.0
_BAD_LEARNING_RATE = 100


class Stage:
    """A context manager: everything runs while it is open, and nothing of it afterwards. `home` is where it lies.

    `prefect.yaml` is deployed as it is shipped, with an interval in place of the cron schedule.
    """

    def __init__(self, home: Path, *, port: int, interval: int, deployment: str = "redistill") -> None:
        self.home = home
        self.settings_file = home / "logitlake.yaml"
        self.deployment = deployment
        self._port = port
        self._interval = interval
        self._open = ExitStack()

    def __enter__(self) -> "Stage":
        try:
            prefect = self.home / "prefect"
            self.api = self._open.enter_context(local_server(prefect, "127.0.0.1", self._port))
            self.environment = {
                **os.environ,
                "PREFECT_HOME": str(prefect),
                "PREFECT_API_URL": self.api,
                "PREFECT_WORKER_QUERY_SECONDS": "2",
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
                "LOGITLAKE_HOME": str(self.home),
            }
            self.prefect("work-pool", "create", _POOL, "--type", "process")
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def start(self) -> None:
        """Deploy, and let a worker wait for the schedule."""
        interval = ("--interval", str(self._interval)) if self._interval else ()
        self.prefect("--no-prompt", "deploy", "--name", self.deployment, *interval)
        self._open.callback(_stopped, self._worker())

    def prefect(self, *arguments: str) -> str:
        """Run a command of Prefect's; returns what it printed."""
        command = [sys.executable, "-m", "prefect", *arguments]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def _worker(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", _POOL, "--type", "process"]
        with (self.home / "worker.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.home, env=self.environment, stdout=log, stderr=subprocess.STDOUT)


def play(stage: Stage, config: Config, arrive: Callable[[int], None]) -> dict[str, Any]:
    """New documents; nothing new; new documents and a bad training. `arrive(night)` puts documents into the corpus.

    A night is over when a run that began after its documents had arrived has noted its end in the lake.
    """
    _write(stage, config)
    arrive(1)
    stage.start()
    began = set[str]()
    nights = [_next_night(config, began, lambda night: bool(night["captured_documents"]))]
    say(f"night 1: {_described(nights[0])}")
    nights.append(_next_night(config, began, lambda night: True))
    say(f"night 2: {_described(nights[1])}")
    rate = _BAD_LEARNING_RATE * (config.redistill.learning_rate or config.training.learning_rate)
    _write(stage, config.model_copy(update={"redistill": config.redistill.model_copy(update={"learning_rate": rate})}))
    arrive(3)
    nights.append(_next_night(config, began, lambda night: bool(night["captured_documents"])))
    say(f"night 3: {_described(nights[2])}")
    return {
        "captured": [night["captured_documents"] for night in nights],
        "promoted": sum(night["promoted"] for night in nights),
        "rejected": sum(night["rejected"] for night in nights),
        "computed_twice": computed_twice(config),
        "noop_seconds": round(run_seconds(stage.api, nights[1]["ended_at"]), 2),
    }


def run_seconds(api: str, at: datetime) -> float:
    """Seconds from start to end of the Prefect run that was active at this time."""
    body = json.dumps(
        {
            "sort": "START_TIME_DESC",
            "limit": 20,
            "flow_runs": {"parent_task_run_id": {"is_null_": True}, "state": {"type": {"any_": ["COMPLETED"]}}},
        }
    )
    request = urllib.request.Request(
        f"{api}/flow_runs/filter", body.encode(), headers={"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + _NIGHT_SECONDS
    while time.monotonic() < deadline:
        with urllib.request.urlopen(request, timeout=30) as answer:
            for run in json.loads(answer.read()):
                start, end = (datetime.fromisoformat(run[name]) for name in ("start_time", "end_time"))
                if start <= at <= end:
                    return (end - start).total_seconds()
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"expected a Prefect run that was active at {at}, found none")


def computed_twice(config: Config) -> int:
    """Sequences stored twice, plus documents captured more often than stored."""
    with Lake.open(location_of(config)) as lake:
        counts = lake.row(
            """
            SELECT
                (SELECT count(*) FROM sequences)
                - (SELECT count(*) FROM (SELECT DISTINCT recipe_id, doc_id, window_index FROM sequences)) AS twice,
                (SELECT coalesce(sum(n_documents), 0) FROM commits) - (SELECT count(*) FROM documents) AS paid_twice
            """
        )
    return int(counts["twice"]) + int(counts["paid_twice"])


def finished_nights(config: Config) -> list[dict[str, Any]]:
    """The reports of all redistillations that ended, in the order in which they began.

    `seconds` are those after the capture.
    """
    try:
        with Lake.open(location_of(config)) as lake:
            rows = lake.sql(
                """
                SELECT status, detail, ended_at, epoch(ended_at - started_at) AS seconds
                FROM runs WHERE kind = 'redistill' AND ended_at IS NOT NULL ORDER BY started_at
                """
            ).to_pylist()
    except LakeError:
        return []  # there is none yet, or it is being made at this moment
    return [{**json.loads(row["detail"])["report"], **row} for row in rows]


def _next_night(config: Config, seen: set[str], accept: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait for the next night that `accept` accepts. Raises RuntimeError with the detail of a night that failed."""
    if not seen:
        seen.add("")
    else:
        seen.update(night["run_id"] for night in finished_nights(config))
    deadline = time.monotonic() + _NIGHT_SECONDS
    while time.monotonic() < deadline:
        for night in finished_nights(config):
            if night["run_id"] not in seen:
                seen.add(night["run_id"])
                if night["status"] != "finished":
                    raise RuntimeError(f"a night {night['status']}: {night['detail']}")
                if accept(night):
                    return night
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"no night within {_NIGHT_SECONDS} s; see worker.log and prefect/server.log")


def _write(stage: Stage, config: Config) -> None:
    """Replace the settings file as a whole: a run may be reading it."""
    staged = stage.settings_file.with_suffix(".tmp")
    staged.write_text(documented_yaml(config), encoding="utf-8")
    staged.replace(stage.settings_file)


def _described(night: dict[str, Any]) -> str:
    return (
        f"{night['captured_documents']} documents captured, {night['outcome']} {night['seconds']:.1f} s later"
        f"{': ' + night['reason'] if night['reason'] else ''}"
    )


def _stopped(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    if process.poll() is None:
        process.kill()
        process.wait()
