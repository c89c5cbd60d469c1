"""Three nights of new data, played with a real server, work pool, worker and schedule: `make nightly`.

The first brings documents, the second nothing, the third documents and a learning rate 100 times too high. They work on
a copy of the demo's lake, which is made first if it is missing. Ends with one line of JSON.
"""

import argparse
import json
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.nights import Stage, play
from logitlake.flows.cli.commands.demo import demo
from logitlake.flows.demo.settings import DemoPaths, demo_config
from logitlake.flows.demo.teacher import demo_teacher
from logitlake.flows.terminal.output import say
from logitlake.pipeline.settings.models import Config
from logitlake.storage.answers.listings import listing
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.students.promotions import promote, student_of

_INTERVAL_SECONDS = 20
_DOCUMENTS = 3
_PORT = 4299


def main() -> None:
    """Play them, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path(), help="directory that holds demo-lake and demo-out")
    parser.add_argument("--port", type=int, default=_PORT, help="port of the Prefect server")
    given = parser.parse_args()
    paths = DemoPaths.under(given.demo)
    if not paths.lake.exists():
        say("The demo's lake is missing: it is made first.")
        demo(given.demo)
    with tempfile.TemporaryDirectory(prefix="logitlake-nightly-", ignore_cleanup_errors=True) as folder:
        print(json.dumps(rehearse(Path(folder), paths, given.port)))


def rehearse(home: Path, paths: DemoPaths, port: int) -> dict[str, Any]:
    """The three nights in `home`, on a copy of the demo's lake."""
    shutil.copytree(paths.lake, home / "lake", ignore=shutil.ignore_patterns("prefect", "*.lock"))
    (home / "arrivals").mkdir()
    config = _config(home, paths)
    _start_from_demo(LakeLocation.resolve(home / "lake"))
    fresh = _unknown_files(config)

    def arrive(night: int) -> None:
        begin = 0 if night == 1 else _DOCUMENTS
        for path in fresh[begin : begin + _DOCUMENTS]:
            shutil.copyfile(path, home / "arrivals" / path.name)

    with Stage(home, port=port, interval=_INTERVAL_SECONDS) as stage:
        return play(stage, config, arrive)


def _config(home: Path, paths: DemoPaths) -> Config:
    """The demo's settings with a corpus that grows."""
    config = demo_config(paths, demo_teacher())
    corpus = config.corpora[0].model_copy(update={"path": str(home / "arrivals"), "glob": ("*.py",)})
    return config.model_copy(
        update={
            "lake": config.lake.model_copy(update={"path": home / "lake"}),
            "corpora": (corpus,),
            "capture": config.capture.model_copy(update={"max_tokens": None}),
            # Few steps on few documents: at the rate of the first training they would undo some of it.
            "redistill": config.redistill.model_copy(update={"learning_rate": config.training.learning_rate / 50}),
            "evaluation": config.evaluation.model_copy(update={"max_tokens": 2000}),
        }
    )


def _start_from_demo(location: LakeLocation) -> None:
    """The demo's student is the current one."""
    with Lake.open(location, read_only=False) as lake:
        if student_of(lake) is None:
            students = listing(lake, "students", limit=1).rows.to_pylist()
            promote(lake, students[0]["student_id"], expected=None, figures={"reason": "the demo's"}, run_id="demo")


def _unknown_files(config: Config) -> list[Path]:
    """Sources of the standard library that the demo did not get to, of ordinary size."""
    with Lake.open(LakeLocation.resolve(config.lake.path)) as lake:
        known = {Path(row).name for row in lake.sql("SELECT DISTINCT source FROM sources")["source"].to_pylist()}
    found = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return [path for path in found if path.name not in known and 2_000 < path.stat().st_size < 6_000]


if __name__ == "__main__":
    sys.exit(main())
