"""One execution of the student flow, without Prefect: train, measure and register the student of a job.

The plan (the job, and whether its student exists) needs no torch: a student that exists costs a second.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

from logitlake.flows.distill.directories import directory_of
from logitlake.flows.distill.job import StudentJob, require_student, resolve_job
from logitlake.flows.reports import DistillReport
from logitlake.flows.run_ids import new_run_id
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.progress import quiet_transformers
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.students.identity import read_facts
from logitlake.pipeline.students.preflight import check_training
from logitlake.storage.errors import LogitlakeError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.students.losses import record_losses
from logitlake.storage.students.registry import find_student, register_student
from logitlake.storage.writing.runs import note_run


def plan_student(config: Config) -> tuple[StudentJob, DistillReport | None]:
    """The job that the settings describe, and the report of its student if that exists. Changes nothing.

    Raises SettingsError for what would stop the training and costs nothing to find out.
    """
    with Lake.open(location_of(config), lock_timeout=config.lake.lock_timeout_seconds) as lake:
        job = resolve_job(config, lake)
        student = existing_student(config, lake, job)
    if student is None:
        check_training(
            *(job.student, job.teacher, job.parent, job.recipe),
            output=job.directory,
            student_id=job.student_id,
            chat_template=config.tokenization.chat_template,
        )
        return job, None
    return job, _report(job, new_run_id(), student)


def existing_student(config: Config, lake: Lake, job: StudentJob) -> Mapping[str, Any] | None:
    """The student of a job as the lake has registered it, if its directory still holds it."""
    student = find_student(lake, job.student_id)
    if not student:
        return None
    directory = directory_of(config, student)
    if read_facts(directory).get("student_id") != job.student_id:
        return None
    return {**student, "directory": str(directory)}


class DistillRun:
    """A context manager around one run: `student_exists` tells whether there is anything to do.

    Without a `job` the settings are resolved to one on entering.
    """

    def __init__(
        self, config: Config, job: StudentJob | None = None, *, on_progress: Callable[[Any], None] | None = None
    ) -> None:
        if job is None:
            require_student(config)
        self.config = config
        self.run_id = new_run_id()
        self._job = job
        self._on_progress = on_progress
        self._losses: dict[str, Any] = {}
        self._exact = False
        self._open = ExitStack()

    def __enter__(self) -> "DistillRun":
        lake = self.config.lake
        try:
            self._lake = self._open.enter_context(
                Lake.open(location_of(self.config), read_only=False, lock_timeout=lake.lock_timeout_seconds)
            )
            self.job = self._job or resolve_job(self.config, self._lake)
            student = existing_student(self.config, self._lake, self.job)
            self.student_exists = student is not None
            self.report = _report(self.job, self.run_id, student)
            if not self.student_exists:
                self._note("started")
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if error is None or self.student_exists:
                return
            try:
                self._note("failed" if isinstance(error, Exception) else "interrupted", error=str(error))
            except LogitlakeError:
                return  # the first error says more than the second

    def train(self) -> None:
        """Train the student to its directory. After a kill, the next call continues from the last checkpoint."""
        from logitlake.pipeline.reading.blocks import lake_fetch
        from logitlake.pipeline.reading.local_copy import LocalCopy
        from logitlake.pipeline.training.train_student import train_student

        quiet_transformers()
        job = self.job
        copy = None
        if job.training.local_copy is not None:
            copy = LocalCopy.open(job.training.local_copy, self._lake, max_bytes=job.training.local_copy_bytes)
        trained = train_student(
            job.student,
            job.training,
            row_set=job.rows,
            fetch=lake_fetch(self._lake, job.rows),
            recipe=job.recipe,
            teacher=job.teacher,
            parent=job.parent,
            chat_template=self.config.tokenization.chat_template,
            show_progress=False,
            on_progress=self._on_progress,
            local_copy=copy,
        )
        self.report = replace(self.report, trained=True, metrics={"train": trained.metrics, "curve": trained.curve})
        reach("student-trained")

    def evaluate(self) -> None:
        """Measure the student, the student before training, and the teacher on the held-out documents, if any."""
        from logitlake.flows.distill.evaluation import evaluate_models, held_out_row_set, teacher_engine
        from logitlake.pipeline.evaluation.evaluate import load_student
        from logitlake.pipeline.saving.model_card import add_evaluation
        from logitlake.pipeline.students.initial_model import make_student

        job = self.job
        held_out = held_out_row_set(self._lake, job.recipe_id)
        if held_out is None:
            return
        models = {
            "before": make_student(job.student, job.parent, job.recipe, teacher=job.teacher, seed=job.training.seed),
            "after": load_student(job.directory, trust_remote_code=job.student.trust_remote_code),
        }
        result = evaluate_models(
            *(self._lake, held_out, job.recipe, models),
            settings=job.evaluation,
            device=job.training.device,
            engine=teacher_engine(job.evaluation, self.config.teacher, job.recipe, job.teacher),
        )
        self._losses = {job.student_id: result.documents["after"]}
        if find_student(self._lake, job.parent.parent_id):
            self._losses[job.parent.parent_id] = result.documents["before"]
        self._exact = result.exact
        measured = {
            name: metrics.to_dict() for name, metrics in [*result.students.items(), ("teacher", result.teacher)]
        }
        held = {"row_set_id": held_out.row_set_id, "exact": result.exact}
        self.report = replace(self.report, metrics={**self.report.metrics, **measured, "held_out": held})
        add_evaluation(job.directory, self.report.metrics)
        reach("student-evaluated")

    def commit(self) -> None:
        """Register the student, its lineage and its row set in the lake."""
        job = self.job
        register_row_set(self._lake, job.rows)
        for student, losses in self._losses.items():
            record_losses(
                *(self._lake, losses),
                student_id=student,
                recipe_id=job.recipe_id,
                run_id=self.run_id,
                exact=self._exact,
            )
        register_student(
            self._lake,
            student_id=job.student_id,
            parent_id=job.parent.parent_id,
            row_set_id=job.rows.row_set_id,
            run_id=self.run_id,
            directory=self.report.directory,
            settings={
                "student": job.student.model_dump(mode="json"),
                "training": job.training.model_dump(mode="json"),
            },
            metrics=self.report.metrics,
        )
        reach("student-registered")
        self._note("finished")

    def _note(self, event: str, **more: Any) -> None:
        detail = {"report": self.report.as_record(), **more}
        note_run(self._lake, self.run_id, event, kind="distill", recipe_id=self.job.recipe_id, **detail)


def _report(job: StudentJob, run_id: str, student: Mapping[str, Any] | None) -> DistillReport:
    """The report before training; the final one if the student exists."""
    rows = job.rows
    return DistillReport(
        run_id=run_id,
        student_id=job.student_id,
        directory=student["directory"] if student else str(job.directory),
        trained=False,
        parent_id=job.parent.parent_id,
        recipe_id=job.recipe_id,
        row_set_id=rows.row_set_id,
        up_to_commit=rows.up_to_commit,
        n_sequences=rows.n_sequences,
        n_tokens=rows.n_tokens,
        n_targets=rows.n_targets,
        metrics=student["metrics"] if student else {},
    )
