"""The upkeep flow: verify → merge → sweep → report. Captures and readers may run at the same time."""

from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from logitlake.flows.maintain.run import MaintainRun
from logitlake.flows.report.link import link_report
from logitlake.flows.reports import MaintainReport
from logitlake.flows.runtime.artifacts import table_artifact
from logitlake.flows.runtime.events import TELLS_ITS_END
from logitlake.flows.runtime.metrics import record_maintain
from logitlake.flows.runtime.retries import worth_retrying
from logitlake.flows.runtime.run_names import last_commit, settings_of_run
from logitlake.pipeline.settings.models import Config

_RETRY: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=10),
    "retry_condition_fn": worth_retrying,
}


@task(name="verify", **_RETRY)
def verify(run: MaintainRun) -> None:
    """Compare a sample of the rows with their checksums."""
    run.verify()


@task(name="merge", **_RETRY)
def merge(run: MaintainRun) -> None:
    """Merge small files into large ones."""
    run.merge()


@task(name="sweep", **_RETRY)
def sweep(run: MaintainRun) -> None:
    """Remove unreferenced files."""
    run.sweep()


def _run_name() -> str:
    return f"upkeep at commit {last_commit(settings_of_run())}"


@flow(name="maintain", flow_run_name=_run_name, **TELLS_ITS_END)
def maintain(config: Config, dry_run: bool = False, verify_all: bool = False) -> MaintainReport:
    """Verify, merge and sweep. With `dry_run` nothing is changed, and the report says what would be done."""
    with MaintainRun(config, dry_run=dry_run, verify_all=verify_all) as run:
        verify(run)
        merge(run)
        sweep(run)
    _report(run.report)
    if not dry_run:
        link_report(config)
    return run.report


def _report(report: MaintainReport) -> None:
    record_maintain(report)
    record = report.as_record()
    names = ("shards", "bytes", "small_files", "snapshots")
    rows = [{"of": n.replace("_", " "), "before": record[f"{n}_before"], "after": record[f"{n}_after"]} for n in names]
    table_artifact(
        "maintain", rows, f"{report.files_merged} files merged, {report.expired_files} expired files removed"
    )
