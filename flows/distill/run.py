"""One execution of the student flow, without Prefect: which rows, which student, train, measure, make it known.

The plan (rows, student id, whether it exists) needs no torch: a student that is known costs a second.
"""

import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from logitlake.flows.capture.preparation import prepare
from logitlake.flows.distill.directories import directory_of
from logitlake.flows.reports import DistillReport
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.progress import quiet_transformers
from logitlake.pipeline.settings.models import Config, StudentSettings
from logitlake.pipeline.students.identity import find_parent, read_facts, student_id
from logitlake.pipeline.teachers.files import TeacherFiles, resolve_teacher
from logitlake.storage.errors import LogitlakeError, SettingsError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.students.losses import record_losses
from logitlake.storage.students.registry import find_student, register_student
from logitlake.storage.writing.recipes import find_recipe
from logitlake.storage.writing.runs import note_run


def known_student(config: Config) -> DistillReport | None:
    """The student that these settings mean, if the lake knows it and its directory holds it. Changes nothing."""
    run = DistillRun(config)
    run.plan(read_only=True)
    run.close()
    return run.report if run.known else None


class DistillRun:
    """A context manager around one run: `known` says whether there is anything to do."""

    def __init__(self, config: Config, *, on_progress: Callable[[Any], None] | None = None) -> None:
        if config.student is None:
            raise SettingsError(
                "student: expected where the student comes from, found nothing: set student.layers (cut from the "
                "teacher), or student.source and student.model"
            )
        self.config = config
        self.student: StudentSettings = config.student
        self.run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._on_progress = on_progress
        self._losses: dict[str, Any] = {}
        self._exact = False
        self._open = ExitStack()

    def __enter__(self) -> "DistillRun":
        self.plan(read_only=False)
        if not self.known:
            self._note("started")
        return self

    def plan(self, *, read_only: bool) -> None:
        """Find the rows, the student's id, and whether it is known; holds the lake from here on, unless it raises."""
        training = self.config.training
        try:
            self._lake = self._open.enter_context(
                Lake.open(
                    location_of(self.config),
                    read_only=read_only,
                    lock_timeout=self.config.lake.lock_timeout_seconds,
                )
            )
            self._teacher = self._find_teacher()
            self.recipe_id, self.recipe = self._find_recipe()
            self.rows = resolve_row_set(
                self._lake,
                recipe_id=self.recipe_id,
                where=training.where,
                weight=training.weight,
                query=training.query,
                up_to_commit=training.up_to_commit,
            )
            self._parent = find_parent(self.student, self.recipe, self._teacher)
            own_id = student_id(self._parent, self.rows, self.student, training)
        except BaseException:
            self._open.close()
            raise
        self.report = self._report(own_id)
        self.known = self._known(own_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if error is None or self.known:
                return
            try:
                self._note("failed" if isinstance(error, Exception) else "interrupted", error=str(error))
            except LogitlakeError:
                return  # the first error says more than the second

    def close(self) -> None:
        """Let go of the lake."""
        self._open.close()

    def train(self) -> None:
        """Train the student to its directory. Killed half way, the next call goes on from its last checkpoint."""
        from logitlake.pipeline.reading.blocks import lake_fetch
        from logitlake.pipeline.reading.local_copy import LocalCopy
        from logitlake.pipeline.training.train_student import train_student

        quiet_transformers()
        training = self.config.training
        copy = None
        if training.local_copy is not None:
            copy = LocalCopy.open(training.local_copy, self._lake, max_bytes=training.local_copy_bytes)
        trained = train_student(
            self.student,
            training,
            row_set=self.rows,
            fetch=lake_fetch(self._lake, self.rows),
            recipe=self.recipe,
            teacher=self._teacher,
            chat_template=self.config.tokenization.chat_template,
            show_progress=False,
            on_progress=self._on_progress,
            local_copy=copy,
        )
        self.report = replace(self.report, trained=True, metrics={"train": trained.metrics, "curve": trained.curve})
        reach("student-trained")

    def evaluate(self) -> None:
        """Measure the student, the student before training, and the teacher on the held-out documents, if any."""
        from logitlake.flows.distill.evaluation import evaluate_models, held_out_row_set
        from logitlake.pipeline.evaluation.evaluate import load_student
        from logitlake.pipeline.students.initial_model import make_student

        held_out = held_out_row_set(self._lake, self.recipe_id)
        if held_out is None:
            return
        seed = self.config.training.seed
        models = {
            "before": make_student(self.student, self._parent, self.recipe, teacher=self._teacher, seed=seed),
            "after": load_student(Path(self.report.directory), trust_remote_code=self.student.trust_remote_code),
        }
        found = evaluate_models(self.config, self._lake, held_out, self.recipe, models)
        self._losses = {self.report.student_id: found.documents["after"]}
        if find_student(self._lake, self._parent.parent_id):
            self._losses[self._parent.parent_id] = found.documents["before"]
        self._exact = found.exact
        measured = {name: metrics.to_dict() for name, metrics in [*found.students.items(), ("teacher", found.teacher)]}
        held = {"row_set_id": held_out.row_set_id, "exact": found.exact}
        self.report = replace(self.report, metrics={**self.report.metrics, **measured, "held_out": held})
        reach("student-evaluated")

    def commit(self) -> None:
        """Make the student, its lineage and its row set known to the lake."""
        register_row_set(self._lake, self.rows)
        for student, losses in self._losses.items():
            record_losses(
                *(self._lake, losses),
                student_id=student,
                recipe_id=self.recipe_id,
                run_id=self.run_id,
                exact=self._exact,
            )
        register_student(
            self._lake,
            student_id=self.report.student_id,
            parent_id=self.report.parent_id,
            row_set_id=self.report.row_set_id,
            run_id=self.run_id,
            directory=self.report.directory,
            settings={
                "student": self.student.model_dump(mode="json"),
                "training": self.config.training.model_dump(mode="json"),
            },
            metrics=self.report.metrics,
        )
        reach("student-registered")
        self._note("finished")

    def _find_teacher(self) -> TeacherFiles | None:
        """The teacher's files, which only a student cut from it can't do without."""
        if self.config.teacher is None:
            return None
        try:
            return resolve_teacher(self.config.teacher)
        except SettingsError:
            if self.student.source == "teacher":
                raise
            return None

    def _find_recipe(self) -> tuple[str, dict[str, Any]]:
        """The recipe that is named, else that of the current settings, else, with no teacher at hand, the only one."""
        wanted = self.config.training.recipe
        if wanted is None and self._teacher is not None:
            prepared = prepare(self.config)
            wanted = None if prepared.question else prepared.recipe.recipe_id
        return find_recipe(self._lake, wanted)

    def _known(self, own_id: str) -> bool:
        """Whether the lake knows the student and its directory still holds it."""
        found = find_student(self._lake, own_id)
        directory = directory_of(self.config, found) if found else self.config.training.output
        if not found or read_facts(directory).get("student_id") != own_id:
            return False
        self.report = replace(self.report, directory=str(directory), metrics=found["metrics"])
        return True

    def _report(self, own_id: str) -> DistillReport:
        rows = self.rows
        return DistillReport(
            run_id=self.run_id,
            student_id=own_id,
            directory=str(self.config.training.output.expanduser().absolute()),
            trained=False,
            parent_id=self._parent.parent_id,
            recipe_id=self.recipe_id,
            row_set_id=rows.row_set_id,
            up_to_commit=rows.up_to_commit,
            n_sequences=rows.n_sequences,
            n_tokens=rows.n_tokens,
            n_targets=rows.n_targets,
            metrics={},
        )

    def _note(self, event: str, **more: Any) -> None:
        detail = {"report": self.report.as_record(), **more}
        note_run(self._lake, self.run_id, event, kind="distill", recipe_id=self.recipe_id, **detail)
