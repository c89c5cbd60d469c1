"""The incremental flow: capture missing documents, train on the new rows, compare, promote or reject.

It calls the teacher flow and the student flow. It can run at any time: the lake records what is done.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from logitlake.flows.capture.flow import capture, rest_of_capture
from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.distill.directories import students_directory
from logitlake.flows.distill.flow import distill
from logitlake.flows.redistill.run import Attempt, RedistillRun
from logitlake.flows.report.link import link_report
from logitlake.flows.reports import DistillReport, RedistillReport
from logitlake.flows.runtime.artifacts import file_artifact, table_artifact
from logitlake.flows.runtime.events import PROMOTED, REJECTED, TELLS_ITS_END, tell
from logitlake.flows.runtime.metrics import record_redistill
from logitlake.flows.runtime.retries import worth_retrying
from logitlake.flows.runtime.run_names import last_commit, settings_of_run, teacher_label
from logitlake.pipeline.settings.models import Config


@task(
    name="decide",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=5),
    retry_condition_fn=worth_retrying,
)
def decide(run: RedistillRun, attempt: Attempt, trained: DistillReport) -> None:
    """Promote or reject in one transaction, and emit an event."""
    verdict = run.decide(attempt, trained)
    told = {"student": attempt.candidate.student_id, "alias": attempt.candidate.alias, "reason": verdict.reason}
    tell(PROMOTED if verdict.promote else REJECTED, run.location, **told)


def _run_name() -> str:
    """The teacher, and the lake's commit number at the start."""
    config = settings_of_run()
    return f"{teacher_label(config)} after commit {last_commit(config)}"


@flow(name="redistill", flow_run_name=_run_name, **TELLS_ITS_END)
def redistill(config: Config, patience: float = 0.0) -> RedistillReport:
    """One night. Candidates that a killed run left undecided come first, then one for the new rows.

    `patience`: seconds to wait for another night or capture of this lake.
    """
    with RedistillRun(config, patience=patience) as run:
        run.captured(capture(config, patience))
        _train(run, run.next())
    return _reported(run)


def rest_of_redistill(
    run: RedistillRun, capturing: CaptureRun | None, attempt: Attempt | None
) -> Callable[[Config], RedistillReport]:
    """The same flow, for a run that is under way: its capture, or after the capture its first candidate."""

    @flow(name="redistill", flow_run_name=_run_name, **TELLS_ITS_END)
    def redistill(config: Config) -> RedistillReport:
        with run:
            if capturing is not None:
                run.captured(rest_of_capture(capturing)(config))
            _train(run, attempt or run.next())
        return _reported(run)

    return redistill


def _train(run: RedistillRun, attempt: Attempt | None) -> None:
    """Train, measure and decide this candidate and those after it."""
    while attempt is not None:
        decide(run, attempt, distill(run.config, attempt.job))
        attempt = run.next()


def _reported(run: RedistillRun) -> RedistillReport:
    _report(run.report, students_directory(run.config))
    if run.report.candidate:
        link_report(run.config)
    return run.report


def _report(report: RedistillReport, students: Path) -> None:
    record_redistill(report)
    get_run_logger().info("%s: %s", report.outcome, report.reason)
    figures = report.figures or {}
    compared: list[dict[str, Any]] = [
        {"student": name, **figures[name]} for name in ("current", "candidate") if figures.get(name)
    ]
    if compared and report.candidate:
        table_artifact("redistill", compared, f"{report.outcome}: {report.reason}")
        card = students / report.candidate / "README.md"
        decision = {"decision": report.outcome, "reason": report.reason}
        file_artifact("student", card, f"Student {report.candidate}", {**decision, **(figures.get("candidate") or {})})
