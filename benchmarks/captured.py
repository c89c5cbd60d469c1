"""One captured lake for all benchmarks: the demo's teacher over the demo's kind of text, by the real capture path.

Made once under .cache/benchmarks and kept; its name follows from what decides it, so a newer format makes a newer lake.
"""

import os
import sys
import sysconfig
import time
from pathlib import Path

from benchmarks.surroundings import REPOSITORY
from flows.capture_run import CaptureRun
from pipeline.config import CaptureSettings, Config, CorpusSettings, LakeSettings, TeacherSettings
from storage.location import LakeLocation
from storage.schema import FORMAT_VERSION

CACHE = REPOSITORY / ".cache" / "benchmarks"
TEACHER_VARIABLE = "LOGITLAKE_BENCH_TEACHER"

_TOKENS = 150_000
_UNIT_TOKENS = 50_000
_DONE = "captured"


def teacher_directory() -> Path:
    """The directory of the demo's teacher, or of another one that the environment names."""
    named = os.environ.get(TEACHER_VARIABLE)
    if not named:
        raise SystemExit(f"benchmarks: set {TEACHER_VARIABLE} to the directory of a teacher")
    return Path(named)


def benchmark_config(lake: Path) -> Config:
    """Settings of the shared capture: the standard library's sources, the default recipe, units of 50,000 tokens."""
    corpus = CorpusSettings(
        name="stdlib",
        kind="text",
        path=sysconfig.get_paths()["stdlib"],
        glob=("**/*.py", "!site-packages/**", "!**/test/**", "!**/tests/**", "!**/idlelib/**", "!lib2to3/**"),
    )
    return Config(
        lake=LakeSettings(path=lake),
        corpora=(corpus,),
        teacher=TeacherSettings(model=str(teacher_directory())),
        capture=CaptureSettings(unit_tokens=_UNIT_TOKENS, max_tokens=_TOKENS),
    )


def captured_lake() -> LakeLocation:
    """The shared lake; the first call runs the teacher over 150,000 tokens, minutes on two cores."""
    directory = CACHE / f"lake-format{FORMAT_VERSION}"
    config = benchmark_config(directory)
    mark = directory / _DONE
    if not mark.exists():
        print(f"benchmarks: capturing {_TOKENS:,} tokens, once", file=sys.stderr, flush=True)
        began = time.perf_counter()
        with CaptureRun(config) as run:
            for number in run.units():
                run.compute(number)
                run.commit(number)
        mark.write_text(f"{time.perf_counter() - began:.0f} s\n")
    return LakeLocation.resolve(directory)
