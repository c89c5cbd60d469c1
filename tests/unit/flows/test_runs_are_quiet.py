"""Runs log, and only the command line prints."""

import subprocess
import sys
import textwrap
from typing import Any

import pytest

from logitlake.pipeline.settings.models import Config


@pytest.mark.slow
def test_run_classes_called_from_python_print_nothing(config: Config) -> None:
    script = f"""
        import json
        from logitlake.flows.capture.run import CaptureRun
        from logitlake.flows.distill.run import DistillRun
        from logitlake.flows.maintain.run import MaintainRun
        from logitlake.pipeline.settings.models import Config
        raw = json.loads({config.model_dump_json()!r})
        raw["lake"]["held_out"]["share"] = 0.0
        config = Config.model_validate(raw)
        with CaptureRun(config) as run:
            for number in run.units():
                run.commit(run.compute(number))
        with DistillRun(config) as run:
            run.train()
            run.evaluate()
            assert "held_out" not in run.report.metrics, "evaluate warns of no held-out documents"
            run.commit()
        with MaintainRun(config) as run:
            run.verify()
            run.merge()
            run.sweep()
    """
    done: Any = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
