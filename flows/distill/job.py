"""A student's job: everything that decides one student, resolved once and then handed on. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from logitlake.flows.capture.preparation import prepare
from logitlake.flows.distill.directories import directory_of
from logitlake.pipeline.model_files.files import TeacherFiles, resolve_teacher
from logitlake.pipeline.settings.models import Config, EvaluationSettings, StudentSettings, TrainingSettings
from logitlake.pipeline.students.identity import Parent, as_named_before, find_parent, student_id
from logitlake.storage.errors import SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import RowSet, resolve_row_set
from logitlake.storage.students.candidates import is_planned
from logitlake.storage.students.registry import find_student
from logitlake.storage.writing.recipes import find_recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentJob:
    """One student to train, measure and register. `training.output` is its directory.

    `teacher` is None if the teacher's files can't be resolved; only a student cut from the teacher needs them.
    """

    student_id: str
    student: StudentSettings
    training: TrainingSettings
    evaluation: EvaluationSettings
    recipe_id: str
    recipe: Mapping[str, Any]
    rows: RowSet
    parent: Parent
    teacher: TeacherFiles | None

    def line(self) -> str:
        """One line for a log: what is trained, and on which rows."""
        rows = self.rows
        chosen = f" where {rows.where}" if rows.where else " chosen by a query" if rows.query else ""
        return (
            f"student {self.student_id} from {self.parent.parent_id}: recipe {self.recipe_id}, row set "
            f"{rows.row_set_id} ({rows.n_sequences:,} sequences of commits up to {rows.up_to_commit}{chosen}), "
            f"learning rate {self.training.learning_rate:g}, to {self.directory}"
        )

    @property
    def directory(self) -> Path:
        """The student's directory."""
        return self.training.output.expanduser().absolute()


def resolve_job(config: Config, lake: Lake) -> StudentJob:
    """The job that the settings describe. Changes nothing.

    Raises SettingsError for settings that name no student, LakeError for a recipe or rows that the lake does not hold.
    """
    student, training = require_student(config), config.training
    teacher = teacher_files(config, student)
    recipe_id, recipe = find_recipe(lake, training.recipe or _recipe_of_settings(config, teacher))
    rows = resolve_row_set(
        lake,
        recipe_id=recipe_id,
        where=training.where,
        weight=training.weight,
        query=training.query,
        up_to_commit=training.up_to_commit,
    )
    parent = known_parent(config, lake, find_parent(student, recipe, teacher), rows, student, training)
    return StudentJob(
        student_id=student_id(parent, rows, student, training),
        student=student,
        training=training,
        evaluation=config.evaluation,
        recipe_id=recipe_id,
        recipe=recipe,
        rows=rows,
        parent=parent,
        teacher=teacher,
    )


def known_parent(
    config: Config, lake: Lake, parent: Parent, rows: RowSet, student: StudentSettings, training: TrainingSettings
) -> Parent:
    """The parent as it is part of the id of a student that an older logitlake has planned or trained, if there is one.

    An older id covers the weights of a checkpoint and not its config. Such a student is not trained again, and a
    training that was interrupted goes on.
    """
    if parent.config_id is None:
        return parent
    older_id = student_id(replace(parent, config_id=None), rows, student, training)
    if is_planned(lake, older_id):
        return replace(parent, config_id=None)
    registered = find_student(lake, older_id)
    directory = directory_of(config, registered) if registered else training.output.expanduser().absolute()
    return as_named_before(parent, rows, student, training, directory)


def require_student(config: Config) -> StudentSettings:
    """The section `student`. Raises SettingsError if the settings have none."""
    if config.student is None:
        raise SettingsError(
            "student: expected where the student comes from, found nothing: set student.layers (cut from the teacher), "
            "or student.source and student.model"
        )
    return config.student


def teacher_files(config: Config, student: StudentSettings) -> TeacherFiles | None:
    """The teacher's files; None if they can't be resolved. Raises SettingsError where the student is cut from them."""
    if config.teacher is None:
        return None
    try:
        return resolve_teacher(config.teacher)
    except SettingsError:
        if student.source == "teacher":
            raise
        return None


def _recipe_of_settings(config: Config, teacher: TeacherFiles | None) -> str | None:
    """The recipe of the current settings; None without a teacher, or if its target size was not probed yet."""
    if teacher is None:
        return None
    prepared = prepare(config, teacher)
    return None if prepared.question else prepared.recipe.recipe_id
