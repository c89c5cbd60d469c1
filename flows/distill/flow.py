"""The student flow: plan → run → commit → report. A student that exists is not trained again."""

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff

from logitlake.flows.distill.job import StudentJob
from logitlake.flows.distill.run import DistillRun
from logitlake.flows.report.link import link_report
from logitlake.flows.reports import DistillReport
from logitlake.flows.runtime.artifacts import ProgressArtifact, named_rows, table_artifact
from logitlake.flows.runtime.events import TELLS_ITS_END
from logitlake.flows.runtime.pace import TrainingPace
from logitlake.flows.runtime.retries import worth_retrying
from logitlake.flows.runtime.run_names import last_commit, model_label, settings_of_run
from logitlake.flows.terminal.progress import Bar, progress_bar
from logitlake.pipeline.settings.models import Config
from logitlake.storage.failpoints import reach

_RETRY: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 1,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_condition_fn": worth_retrying,
}


@task(name="train", **_RETRY)
def train(run: DistillRun) -> None:
    """Train the student; a retry continues from the last checkpoint."""
    run.train()


@task(name="evaluate", **_RETRY)
def evaluate(run: DistillRun) -> None:
    """Measure it on the held-out documents."""
    run.evaluate()


@task(name="commit", **_RETRY)
def commit(run: DistillRun) -> None:
    """Register it in the lake."""
    run.commit()


def _run_name() -> str:
    """The student's parent, and the lake's commit number."""
    config, job = settings_of_run(), flow_run.parameters.get("job")
    student = job.student if isinstance(job, StudentJob) else config.student
    if student is None:
        source = "student"
    else:
        source = model_label(student.model) if student.model else f"{student.layers} layers of the teacher"
    return f"{source} at commit {last_commit(config)}"


# Not validated: Prefect would copy the job, which holds tables.
@flow(name="distill", flow_run_name=_run_name, validate_parameters=False, **TELLS_ITS_END)
def distill(config: Config, job: StudentJob | None = None) -> DistillReport:
    """Train, measure and register the student of `job`, or of the settings. Raises what a task's last retry raised."""
    shown = _Shown()
    with DistillRun(config, job, on_progress=shown.update) as run:
        if not run.student_exists:
            get_run_logger().info(run.job.line())
            with progress_bar("train", unit="steps", logged=False) as shown.bar:
                train(run)
            evaluate(run)
            commit(run)
    table_artifact("distill", named_rows(run.report.as_record()), f"Student {run.report.student_id}")
    if run.report.trained:
        link_report(config)
    return run.report


# A short training reports its loss at every step: too often for a log and a server.
_STEPS_A_LINE = 10


class _Shown:
    """Shows the trainer's progress: on the terminal's bar, on Prefect's web page, in the log."""

    def __init__(self) -> None:
        self.bar = Bar()
        self._pace = TrainingPace()
        self._artifact = ProgressArtifact("Training")

    def update(self, progress: Any) -> None:
        """Called whenever the trainer reports (see logitlake.pipeline.training.distillation_trainer.Progress)."""
        self._pace.reach(progress.step, progress.max_steps)
        self.bar.reach(progress.step, progress.max_steps)
        if progress.loss is None:
            reach("student-training")
            return
        self.bar.expect(progress.max_steps, note=f"loss {progress.loss:.3f}")
        if progress.step % _STEPS_A_LINE and progress.step != progress.max_steps:
            return
        self._artifact.update(progress.step / max(progress.max_steps, 1), self._pace.words(progress.loss))
        get_run_logger().info(self._pace.line(progress.loss))
