"""Kill `logitlake serve` whole during runs: `python -m tests.integration.nights.ten_kills --kills 10 --seed 1`."""

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.integration.nights.night_settings import night_settings
from tests.integration.nights.service import Service
from tests.integration.nights.whole_kills import Restart, play, random_kills
from tests.tiny_lake import append_documents
from tests.tiny_models import write_tiny_teacher


def main() -> int:
    """Play the kills; prints one line for each, then a line of JSON. Exit code 1 if one left a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.nights.ten_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        directory = Path(name)
        os.environ["LOGITLAKE_CACHE"] = str(directory / "cache")
        write_tiny_teacher(directory / "teacher")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        service = Service(directory / "nights", night_settings(directory, directory / "teacher"), port)
        try:
            add = partial(append_documents, directory / "documents.jsonl")
            restarts = play(service, add, random_kills(arguments.kills, arguments.seed))
        except AssertionError as problem:
            print(f"seed {arguments.seed}: {problem}", file=sys.stderr)
            return 1
        finally:
            service.end()
    for restart in restarts:
        kill = restart.kill
        print(f"{kill.signal.name:8s} {kill.night:20s} {kill.upkeep:18s} {restart.n_dead} runs")
    print(summary(restarts, arguments.seed))
    return 0


def summary(restarts: Sequence[Restart], seed: int) -> str:
    """One line of JSON: every kill hit a night and an upkeep that were under way, and the service went on."""
    marked = [restart.marked_seconds for restart in restarts]
    running = [restart.running_seconds for restart in restarts]
    return json.dumps(
        {
            "kills": len(restarts),
            "seed": seed,
            "runs_hit": sum(restart.n_dead for restart in restarts),
            "marked_as_crashed_seconds": {"median": round(statistics.median(marked), 1), "most": round(max(marked), 1)},
            "next_night_runs_seconds": {"median": round(statistics.median(running), 1), "most": round(max(running), 1)},
        }
    )


if __name__ == "__main__":
    sys.exit(main())
