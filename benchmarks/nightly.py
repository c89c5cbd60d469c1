"""Three nights of new data, played with a real server, work pool, worker and schedule: `make nightly`.

The first night has new documents, the second none, the third new documents and a learning rate 100 times too high. They
work on a copy of the demo's lake; a missing lake is made first. The last line of the output is JSON.
"""

import json
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.demo_lake import copy_demo_lake, demo_parser, demo_paths
from benchmarks.nights import Stage, play
from logitlake.flows.demo.settings import DemoPaths, demo_config
from logitlake.flows.demo.teacher import demo_teacher
from logitlake.pipeline.settings.models import Config
from logitlake.storage.answers.listings import listing
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from logitlake.storage.students.promotions import promote, student_of

_INTERVAL_SECONDS = 20
_DOCUMENTS = 3
_PORT = 4299


def main() -> None:
    """Play the nights and print their figures."""
    parser = demo_parser(__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=_PORT, help="port of the Prefect server")
    options = parser.parse_args()
    paths = demo_paths(options.demo)
    with tempfile.TemporaryDirectory(prefix="logitlake-nightly-", ignore_cleanup_errors=True) as folder:
        print(json.dumps(rehearse(Path(folder), paths, options.port)))


def rehearse(home: Path, paths: DemoPaths, port: int) -> dict[str, Any]:
    """The three nights in `home`, on a copy of the demo's lake."""
    location = copy_demo_lake(paths, home)
    (home / "arrivals").mkdir()
    config = _config(home, paths)
    _start_from_demo(location)
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
    """Promote the demo's student, so that it is the current one."""
    with Lake.open(location, read_only=False) as lake:
        if student_of(lake) is None:
            students = listing(lake, "students", limit=1).rows.to_pylist()
            promote(lake, students[0]["student_id"], expected=None, figures={"reason": "the demo's"}, run_id="demo")


def _unknown_files(config: Config) -> list[Path]:
    """Sources of the standard library between 2 and 6 kB that the demo has not captured."""
    with Lake.open(LakeLocation.resolve(config.lake.path)) as lake:
        captured = {Path(row).name for row in lake.sql("SELECT DISTINCT source FROM sources")["source"].to_pylist()}
    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return [path for path in modules if path.name not in captured and 2_000 < path.stat().st_size < 6_000]


if __name__ == "__main__":
    sys.exit(main())
