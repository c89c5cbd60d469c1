"""A capture from the command line: Prefect is started when the first document needs the teacher."""

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.reports import CaptureReport
from logitlake.flows.runtime.environment import arrange_prefect, run_flow
from logitlake.flows.runtime.metrics import record_capture
from logitlake.flows.runtime.termination import termination_raises
from logitlake.pipeline.settings.models import Config


def run_capture(config: Config) -> CaptureReport:
    """Capture what is new. With nothing new for the teacher no Prefect server is started."""
    with termination_raises(), CaptureRun(config) as run:
        if run.commit_notes():
            arrange_prefect(run.location)
            # Imported here: Prefect is slow to import, and reads the variables that arrange_prefect sets.
            from logitlake.flows.capture.flow import rest_of_capture

            return run_flow(rest_of_capture(run), config)
    record_capture(run.report, run.last_data_commit)
    return run.report
