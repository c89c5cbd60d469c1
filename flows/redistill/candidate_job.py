"""The job of a candidate: which student it starts from, on which rows it is trained, and where it goes."""

from logitlake.flows.distill.directories import directory_of, students_directory
from logitlake.flows.distill.job import StudentJob, known_parent, require_student, teacher_files
from logitlake.pipeline.settings.models import Config, StudentSettings
from logitlake.pipeline.students.identity import find_parent, student_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.students.registry import find_student
from logitlake.storage.writing.recipes import find_recipe


def candidate_job(
    config: Config, lake: Lake, recipe_id: str, *, current: str | None, where: str | None, up_to_commit: int
) -> StudentJob:
    """The job of the candidate that is trained on these rows, starting from the current student if there is one.

    Its directory is named by its id, it has checkpoints to resume from, and it is measured without the teacher unless
    `evaluation.teacher` is true. Raises LakeError if the lake holds none of the rows.
    """
    recipe_id, recipe = find_recipe(lake, recipe_id)
    student, settings, evaluation = _student_settings(config, lake, current), config.redistill, config.evaluation
    rules = {"where": where, "up_to_commit": up_to_commit, "recipe": recipe_id}
    training = config.training.model_copy(update=rules)
    if current is not None and settings.learning_rate is not None:
        training = training.model_copy(update={"learning_rate": settings.learning_rate})
    rows = resolve_row_set(lake, recipe_id=recipe_id, where=where, weight=training.weight, up_to_commit=up_to_commit)
    teacher = teacher_files(config, student)
    parent = known_parent(config, lake, find_parent(student, recipe, teacher), rows, student, training)
    candidate_id = student_id(parent, rows, student, training)
    directory = students_directory(config) / candidate_id
    steps = training.save_steps or settings.checkpoint_steps
    return StudentJob(
        student_id=candidate_id,
        student=student,
        training=training.model_copy(update={"output": directory, "save_steps": steps}),
        evaluation=evaluation.model_copy(update={"teacher": evaluation.teacher or False}),
        recipe_id=recipe_id,
        recipe=recipe,
        rows=rows,
        parent=parent,
        teacher=teacher,
    )


def _student_settings(config: Config, lake: Lake, current: str | None) -> StudentSettings:
    """The settings of the first student, or of one that starts from the current student's checkpoint."""
    first = require_student(config)
    if current is None:
        return first
    directory = directory_of(config, find_student(lake, current))
    more = {"lora": first.lora, "dtype": first.dtype, "trust_remote_code": first.trust_remote_code}
    return StudentSettings(source="checkpoint", model=str(directory), **more)
