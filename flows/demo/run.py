"""The demo: a real teacher, a real corpus, a student from the cache, answers in SQL.

A second run finds everything done: the documents by their content, the student by its id.
"""

import logging
import time

from logitlake.flows.capture.command import run_capture
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
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeMissingError
from logitlake.storage.lake.lake import Lake

log = logging.getLogger(__name__)


def run_demo(paths: DemoPaths) -> None:
    """Capture, train, measure and query; each step logs what it does or what is done already."""
    began = time.monotonic()
    log.info("1. Teacher: SmolLM2-135M-Instruct from the package index, converted once.")
    config = demo_config(paths, demo_teacher())
    config = config.model_copy(update={"capture": _remaining_capture(config, paths.location)})
    paths.output.mkdir(parents=True, exist_ok=True)
    settings_file = paths.output / "logitlake.yaml"
    settings_file.write_text(documented_yaml(config), encoding="utf-8")
    log.info("2. Capture: the teacher's targets for the sources of the Python standard library.")
    captured = run_capture(config)
    _log_capture(captured)
    log.info("3. Student: 10 of the teacher's 30 layers, trained for one epoch from the cache, without the teacher.")
    trained = run_flow(distill, config)
    _log_student(trained)
    print_demo_report(paths.location, captured, trained)
    log.info(
        f"Done in {time.monotonic() - began:.0f} s. Continue with: logitlake sql --config {settings_file} 'SELECT …'"
    )


def _remaining_capture(config: Config, location: LakeLocation) -> CaptureSettings:
    """The capture settings, the cap reduced by the tokens of earlier runs: a second run captures nothing."""
    try:
        with Lake.open(location) as lake:
            spent = captured_tokens(lake, prepare(config).recipe.recipe_id)
    except LakeMissingError:
        spent = 0
    return config.capture.model_copy(update={"max_tokens": max(MAX_TOKENS - spent, 1)})


def _log_capture(report: CaptureReport) -> None:
    if report.n_documents:
        log.info(f"   {report.n_tokens:,} tokens of {report.n_documents} documents in {report.teacher_seconds:.0f} s")
    else:
        log.info(f"   nothing to do: all {report.documents_known} documents are in the lake")


def _log_student(report: DistillReport) -> None:
    if report.trained:
        log.info(f"   student {report.student_id[:12]} is in {report.directory}, a Hugging Face model directory")
    else:
        log.info(f"   nothing to do: student {report.student_id[:12]} exists in {report.directory}")
