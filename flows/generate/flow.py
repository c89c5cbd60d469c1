"""The flow that writes traces: plan → write and judge → commit → report. One task writes one work unit."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from logitlake.flows.generate.run import GenerateRun
from logitlake.flows.reports import GenerateReport
from logitlake.flows.runtime.artifacts import named_rows, table_artifact
from logitlake.flows.runtime.events import TELLS_ITS_END
from logitlake.flows.runtime.limits import one_teacher
from logitlake.flows.runtime.retries import worth_retrying
from logitlake.flows.runtime.run_names import last_commit, settings_of_run
from logitlake.flows.terminal.progress import progress_bar
from logitlake.pipeline.settings.models import Config

_RETRY: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
}


@task(name="write", task_run_name="write-{number}", **_RETRY)
def write(run: GenerateRun, number: int) -> int:
    """Write the samples of one work unit, and judge them."""
    return run.compute(number)


@task(name="commit", task_run_name="commit-{number}", **_RETRY)
def commit(run: GenerateRun, number: int) -> int:
    """Commit one work unit."""
    return run.commit(number)


def _run_name() -> str:
    config = settings_of_run()
    return f"traces by {config.generate.writer} after commit {last_commit(config)}"


@flow(name="generate", flow_run_name=_run_name, **TELLS_ITS_END)
def generate(config: Config, patience: float = 0.0) -> GenerateReport:
    """Write the samples that are missing, unit by unit. Raises the error of a task's last retry.

    `patience`: seconds to wait for another such run of this lake.
    """
    return _generated(GenerateRun(config, patience=patience))


def rest_of_generate(run: GenerateRun) -> Callable[[Config], GenerateReport]:
    """The same flow, for a run that is under way. The run is no parameter: Prefect would try to store it."""

    @flow(name="generate", flow_run_name=_run_name, **TELLS_ITS_END)
    def generate(config: Config) -> GenerateReport:
        return _generated(run)

    return generate


def _generated(run: GenerateRun) -> GenerateReport:
    retries = run.config.capture.unit_retries
    with progress_bar("generate", logged=False) as bar, ExitStack() as slot, run:
        run.on_tokens = bar.advance
        waiting = True
        for number in run.units():
            if waiting and run.needs_work(number):
                slot.enter_context(one_teacher(run.config.schedule.teachers))
                waiting = False
            write.with_options(retries=retries)(run, number)
            commit.with_options(retries=retries)(run, number)
            get_run_logger().info(run.report.line())
    table_artifact("generate", named_rows(run.report.as_record()), f"Traces by {run.report.writer}")
    return run.report
