"""The teacher flow: plan → run → commit → report. One task computes one work unit, one task commits it.

The commit of a unit runs beside the computation of the next, one at a time. The lake decides what is done; Prefect
retries, limits and shows. No array passes through a task result: rows wait in the run until they are committed.
"""

from contextlib import ExitStack
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.tasks import exponential_backoff

from flows.artifacts import ProgressArtifact, named_rows, table_artifact
from flows.capture_run import CaptureReport, CaptureRun
from flows.limits import one_teacher
from flows.metrics import record_capture
from flows.progress import progress_bar
from flows.retries import worth_retrying
from flows.run_names import last_commit, settings_of_run
from pipeline.config import Config

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
    """Which teacher, and what the lake had seen when the run began."""
    config = settings_of_run()
    teacher = config.teacher.model.rstrip("/").split("/")[-1] if config.teacher else "no teacher"
    return f"{teacher} after commit {last_commit(config)}"


@flow(name="capture", flow_run_name=_run_name)
def capture(config: Config) -> CaptureReport:
    """Run the teacher over what the lake does not hold, unit by unit. Raises what the last retry of a task raised.

    A place among the teachers of the server is taken when the first unit needs one: a night with nothing new waits for
    nobody.
    """
    retries = config.capture.unit_retries
    cap = config.capture.max_tokens
    with (
        progress_bar("teacher", total=cap) as bar,
        ExitStack() as place,
        CaptureRun(config, on_tokens=bar.advance) as run,
    ):
        shown = ProgressArtifact(f"Capture by {run.report.teacher}")
        committing: PrefectFuture[int] | None = None
        waiting = True
        for number in run.units():
            if waiting and run.needs_teacher(number):
                place.enter_context(one_teacher(config.schedule.teachers))
                waiting = False
            compute.with_options(retries=retries)(run, number)
            if committing is not None:
                committing.result()
            committing = commit.with_options(retries=retries).submit(run, number)
            shown.update(run.report.n_tokens / cap if cap else 0.0, _progress(run.report))
        if committing is not None:
            committing.result()
        shown.update(1.0, _progress(run.report))
    record_capture(run.report)
    table_artifact("capture", named_rows(run.report.as_record()), f"Capture by {run.report.teacher}")
    return run.report


def _progress(report: CaptureReport) -> str:
    speed = f", {report.tokens_per_second:,.0f} tokens/s" if report.tokens_per_second else ""
    text = f"{report.n_units} units, {report.n_documents:,} documents, {report.n_tokens:,} tokens committed{speed}"
    get_run_logger().info(text)
    return text
