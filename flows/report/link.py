"""Write the report after a run that changed the lake, and show its key figures on Prefect's web page."""

from prefect import get_run_logger
from prefect.context import FlowRunContext

from logitlake.flows.report.default_path import FILE_NAME
from logitlake.flows.runtime.artifacts import file_artifact
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.quantities import bytes_text
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LogitlakeError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.upkeep.sweeping import holdings


def link_report(config: Config) -> None:
    """Write the page into the lake's folder and show its path and key figures.

    Does nothing in a flow that another flow called. A lake whose catalog is a server has no folder: only `logitlake
    report` writes its page. An error of the page is a warning in the log, not a failure of the run.
    """
    location = location_of(config)
    context = FlowRunContext.get()
    called_by_a_flow = context is None or context.flow_run is None or context.flow_run.parent_task_run_id is not None
    if called_by_a_flow or location.state_directory is None:
        return
    path = location.state_directory / FILE_NAME
    try:
        with Lake.open(location) as lake:
            # Imported here: a run that changes nothing needs no plotting library.
            from logitlake.flows.report.page import write_report

            write_report(lake, path)
            size = holdings(lake)
            figures = {"commit_number": lake.commit_number, "shards": size.n_shards, "size": bytes_text(size.n_bytes)}
    except (LogitlakeError, OSError) as error:
        get_run_logger().warning("could not write the report (%s); run `logitlake report`", error)
        return
    file_artifact("report", path, "Report of the lake", figures)
