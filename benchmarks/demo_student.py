"""The student as the demo leaves it: cut from the teacher, one epoch on the shared lake, by the real student flow."""

import sys
from pathlib import Path

from benchmarks.captured import CACHE, benchmark_config, captured_lake
from logitlake.flows.distill.run import DistillRun
from logitlake.pipeline.settings.models import Config


def student_config() -> Config:
    """The benchmarks' settings; the student goes beside the lake that it learns from."""
    config = benchmark_config()
    output = CACHE / config.lake.path.name.replace("captured", "student")
    return config.model_copy(update={"training": config.training.model_copy(update={"output": output})})


def demo_student() -> Path:
    """Its directory. The first call trains it, which takes minutes; killed, it starts again."""
    captured_lake()
    with DistillRun(student_config()) as run:
        if not run.student_exists:
            print("benchmarks: training the demo's student, once", file=sys.stderr, flush=True)
            run.train()
            run.commit()
        return Path(run.report.directory)
