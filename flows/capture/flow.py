"""The teacher flow: plan → run → commit → report. One task computes one work unit, one task commits it.

The commit of a unit runs beside the computation of the next, one at a time. The lake records what is done; Prefect
retries, limits and displays. No array is a task result: rows wait in the run until they are committed.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.tasks import exponential_backoff

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.reports import CaptureReport
from logitlake.flows.runtime.artifacts import ProgressArtifact, named_rows, table_artifact
from logitlake.flows.runtime.events import TELLS_ITS_END
from logitlake.flows.runtime.limits import one_teacher
from logitlake.flows.runtime.metrics import record_capture
from logitlake.flows.runtime.pace import Pace
from logitlake.flows.runtime.retries import worth_retrying
from logitlake.flows.runtime.run_names import last_commit, settings_of_run, teacher_label
from logitlake.flows.terminal.comparison import comparison_rows
from logitlake.flows.terminal.progress import Bar, progress_bar
from logitlake.flows.terminal.quantities import bytes_text
from logitlake.pipeline.settings.models import Config

_RETRY: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
}


@task(name="compute", task_run_name="compute-{number}", **_RETRY)
def compute(run: CaptureRun, number: int) -> int:
    """Run the teacher over one work unit."""
    return run.compute(number)


@task(name="commit", task_run_name="commit-{number}", **_RETRY)
def commit(run: CaptureRun, number: int) -> int:
    """Commit one work unit; returns the commit number."""
    return run.commit(number).commit_number


def _run_name() -> str:
    """The teacher, and the lake's commit number at the start."""
    config = settings_of_run()
    return f"{teacher_label(config)} after commit {last_commit(config)}"


@flow(name="capture", flow_run_name=_run_name, **TELLS_ITS_END)
def capture(config: Config, patience: float = 0.0) -> CaptureReport:
    """Run the teacher over missing documents, unit by unit. Raises the error of a task's last retry.

    `patience`: seconds to wait for another capture of this lake. The teacher slot is taken when the first unit needs
    the teacher: a run with nothing new does not wait for a slot.
    """
    return _captured(CaptureRun(config, patience=patience))


def rest_of_capture(run: CaptureRun) -> Callable[[Config], CaptureReport]:
    """The same flow, for a run that is under way. The run is no parameter: Prefect would try to store it."""

    @flow(name="capture", flow_run_name=_run_name, **TELLS_ITS_END)
    def capture(config: Config) -> CaptureReport:
        return _captured(run)

    return capture


def _captured(run: CaptureRun) -> CaptureReport:
    config = run.config
    retries = config.capture.unit_retries
    cap = config.capture.max_tokens
    with progress_bar("capture", total=cap, logged=False) as bar, ExitStack() as slot, run:
        run.on_tokens = lambda n: _move(bar, run, n)
        shown = ProgressArtifact(f"Capture by {run.report.teacher}")
        committing: PrefectFuture[int] | None = None
        needs_slot = True

        def finish_and_free_the_slot() -> None:
            """Another capture may need the slot to compute what this one waits for."""
            nonlocal needs_slot
            if committing is not None:
                committing.result()
            if not needs_slot:
                run.unload_teacher()
                slot.close()
                needs_slot = True

        run.before_waiting = finish_and_free_the_slot
        for number in run.units():
            if needs_slot and run.needs_teacher(number):
                slot.enter_context(one_teacher(config.schedule.teachers))
                needs_slot = False
            compute.with_options(retries=retries)(run, number)
            if committing is not None:
                committing.result()
            committing = commit.with_options(retries=retries).submit(run, number)
            pace = Pace(run.report, run.planned_tokens)
            if run.report.n_units:
                get_run_logger().info(pace.line())
            shown.update(pace.share, pace.words())
        if committing is not None:
            committing.result()
        # The lines above were written before the commit of their unit.
        pace = Pace(run.report, run.planned_tokens)
        get_run_logger().info(pace.line())
        shown.update(1.0, pace.words())
        bar.expect(None, note=f"{bytes_text(run.report.n_bytes)} stored")
    record_capture(run.report, run.last_data_commit)
    _show(run.report)
    return run.report


def _move(bar: Bar, run: CaptureRun, n_tokens: int) -> None:
    """Advance the bar by `n_tokens`, and set its total once the plan is counted."""
    bar.advance(n_tokens)
    bar.expect(run.planned_tokens, note=f"{bytes_text(run.report.n_bytes)} stored")


def _show(report: CaptureReport) -> None:
    """Show on Prefect's web page what was done and what was expected."""
    table_artifact("capture", named_rows(report.as_record()), f"Capture by {report.teacher}")
    if rows := comparison_rows(report.comparison()):
        table_artifact("capture-plan", rows, f"Capture by {report.teacher}: expected and measured")
