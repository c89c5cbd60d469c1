"""A night from the command line: Prefect is started when a document needs the teacher or a student is to be trained."""

import logging

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.redistill.run import Attempt, RedistillRun
from logitlake.flows.reports import RedistillReport
from logitlake.flows.runtime.environment import arrange_prefect, run_flow
from logitlake.flows.runtime.metrics import record_capture, record_redistill
from logitlake.flows.runtime.termination import termination_raises
from logitlake.pipeline.settings.models import Config

log = logging.getLogger(__name__)


def run_redistill(config: Config) -> RedistillReport:
    """Play one night. With nothing to capture and nothing to train no Prefect server is started."""
    with termination_raises(), RedistillRun(config) as run:
        with CaptureRun(config) as capturing:
            if capturing.commit_notes():
                return _continue(run, capturing, None)
        record_capture(capturing.report, capturing.last_data_commit)
        run.captured(capturing.report)
        attempt = run.next()
        if attempt is not None:
            return _continue(run, None, attempt)
    record_redistill(run.report)
    log.info("%s: %s", run.report.outcome, run.report.reason)
    return run.report


def _continue(run: RedistillRun, capturing: CaptureRun | None, attempt: Attempt | None) -> RedistillReport:
    """The rest of the night as a flow."""
    arrange_prefect(run.location)
    # Imported here: Prefect is slow to import, and reads the variables that arrange_prefect sets.
    from logitlake.flows.redistill.flow import rest_of_redistill

    return run_flow(rest_of_redistill(run, capturing, attempt), run.config)
