"""The report, written anew when a run has changed the lake, and linked from Prefect's interface."""

from prefect import get_run_logger
from prefect.context import FlowRunContext

from logitlake.flows.report.place import FILE_NAME
from logitlake.flows.runtime.artifacts import link_artifact
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LogitlakeError
from logitlake.storage.lake.lake import Lake


def link_report(config: Config) -> None:
    """Write the page into the lake's folder and link it, at the end of a flow that no other flow called.

    A lake whose catalog is a server has no folder: its page is written by `logitlake report` alone. What goes wrong
    with the page is a warning, and never the run's failure.
    """
    location = location_of(config)
    context = FlowRunContext.get()
    called_by_a_flow = context is None or context.flow_run is None or context.flow_run.parent_task_run_id is not None
    if called_by_a_flow or location.state_directory is None:
        return
    path = location.state_directory / FILE_NAME
    try:
        with Lake.open(location) as lake:
            # Imported here: the plotting library is no business of a run that changes nothing.
            from logitlake.flows.report.page import write_report

            write_report(lake, path)
    except (LogitlakeError, OSError) as error:
        get_run_logger().warning("the report was not written (%s); `logitlake report` tries again", error)
        return
    link_artifact("report", path, "Report of the lake")
