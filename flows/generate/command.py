"""Writing traces from the command line: Prefect is started when there is something to write or to judge."""

from logitlake.flows.generate.run import GenerateRun
from logitlake.flows.reports import GenerateReport
from logitlake.flows.runtime.environment import arrange_prefect, run_flow
from logitlake.flows.runtime.termination import termination_raises
from logitlake.pipeline.settings.models import Config


def run_generate(config: Config) -> GenerateReport:
    """Write what is missing. With nothing to write or judge no Prefect server is started."""
    with termination_raises(), GenerateRun(config) as run:
        if run.commit_notes():
            arrange_prefect(run.location)
            # Imported here: Prefect is slow to import, and reads the variables that arrange_prefect sets.
            from logitlake.flows.generate.flow import rest_of_generate

            return run_flow(rest_of_generate(run), config)
    return run.report
