"""One captured lake for all benchmarks: the demo's teacher over the demo's corpus, by the real capture path.

Made once under .cache/benchmarks. The name of its directory has a hash of the settings and of the format version, so
that other settings make another lake.
"""

import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.surroundings import REPOSITORY
from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.demo.settings import MAX_TOKENS, DemoPaths, demo_config
from logitlake.flows.demo.teacher import demo_teacher
from logitlake.pipeline.settings.models import Config
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import canonical_json, digest
from logitlake.storage.schema.sequences import FORMAT_VERSION

CACHE = REPOSITORY / ".cache" / "benchmarks"
TEACHER_VARIABLE = "LOGITLAKE_BENCH_TEACHER"

_DONE = "captured"
_DECISIVE: Any = {
    "corpora": True,
    "tokenization": True,
    "target": True,
    "capture": {"unit_tokens", "batch_tokens", "max_tokens"},
}


def teacher_path() -> Path:
    """The demo's teacher, fetched once, or the teacher that the environment names (a directory or a GGUF file)."""
    named = os.environ.get(TEACHER_VARIABLE)
    return Path(named).expanduser().absolute() if named else demo_teacher()


def benchmark_config() -> Config:
    """The demo's settings over a lake of the benchmarks."""
    config = demo_config(DemoPaths.under(CACHE), teacher_path())
    parts = config.model_dump(mode="json", include=_DECISIVE)
    name = digest(canonical_json(parts), str(FORMAT_VERSION).encode())[:8]
    return config.model_copy(update={"lake": config.lake.model_copy(update={"path": CACHE / f"captured-{name}"})})


def corpus_key() -> str:
    """What decides which tokens the teacher sees, wherever Python lies: its version stands for its sources' text."""
    parts = benchmark_config().model_dump(mode="json", include={**_DECISIVE, "capture": {"max_tokens"}})
    corpora = [{name: value for name, value in corpus.items() if name != "path"} for corpus in parts["corpora"]]
    return digest(canonical_json([corpora, parts["tokenization"], parts["capture"], platform.python_version()]))


def captured_lake() -> LakeLocation:
    """The shared lake. The first call runs the teacher, which takes minutes on two cores; killed, it goes on."""
    config = benchmark_config()
    mark = config.lake.path / _DONE
    if not mark.exists():
        print(f"benchmarks: capturing {MAX_TOKENS:,} tokens, once", file=sys.stderr, flush=True)
        with CaptureRun(config) as run:
            for number in run.units():
                run.compute(number)
                run.commit(number)
        mark.write_text(run.report.recipe_id)
    return LakeLocation.resolve(config.lake.path)
