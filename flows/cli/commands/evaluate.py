"""`logitlake evaluate`: how good a student is on documents that no student was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from logitlake.flows.cli.completion import offer
from logitlake.flows.cli.options import ResultOptions, flag, option, writable_lake
from logitlake.flows.distill.directories import directory_of
from logitlake.flows.run_ids import new_run_id
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import print_rows, say
from logitlake.flows.terminal.progress import quiet_transformers
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LakeError, LogitlakeError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.students.losses import record_losses
from logitlake.storage.students.promotions import student_of
from logitlake.storage.students.registry import find_student
from logitlake.storage.writing.recipes import find_recipe


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ResultOptions):
    """The student, the documents, and whether the teacher is used."""

    student: Annotated[
        str | None,
        typer.Argument(
            help="Directory, id (or its beginning) or alias; default: training.output.",
            autocompletion=offer("student"),
        ),
    ] = None
    teacher: Annotated[
        bool | None,
        flag("evaluation.teacher", "--teacher/--no-teacher", help="Compare with the teacher itself, or with the cache"),
    ] = None
    max_tokens: Annotated[
        int | None, flag("evaluation.max_tokens", "--max-tokens", help="Read at most this many held-out tokens")
    ] = None
    recipe: Annotated[
        str | None,
        option("--recipe", help="Recipe id or its beginning; default: the student's.", autocompletion=offer("recipe")),
    ] = None
    where: Annotated[
        str | None,
        option("--where", help="Measure on the training documents of this SQL condition over sequences instead."),
    ] = None


def evaluate(options: EvaluateOptions) -> None:
    """Measure a student, or any model with the teacher's tokenizer, on the held-out documents of the lake.

    Prints cross-entropy on the real tokens, KL from the teacher with its standard error, agreement with the teacher's
    most likely token, and calibration error: in nats, means over targets. A student of the lake also gets its losses by
    document, in the view `student_losses`.
    """
    config = options.config()
    with Lake.open(location_of(config)) as lake:
        directory = _directory(lake, options.student, config)
        recipe = options.recipe or config.training.recipe
        print_rows(_measure(config, lake, directory, recipe, options.where), options.form)


def _directory(lake: Lake, student: str | None, config: Config) -> Path:
    named = config.training.output if student is None else Path(student).expanduser()
    if named.is_dir():
        return named
    registered = find_student(lake, student_of(lake, student) or student) if student else {}
    if registered and (directory := directory_of(config, registered)).is_dir():
        return directory
    if registered:
        raise LakeError(
            f"student {student}: expected it in {registered['directory']}, which does not exist; move it "
            "back there, or train it again"
        )
    raise SettingsError(
        f"student {student or named}: expected a directory, a student id or an alias, found none of that name; "
        "`logitlake show students` lists the students"
    )


def _record_losses(config: Config, student_id: str, recipe_id: str, evaluation: Any) -> None:
    """Write the losses by document; a lake that can't be written to is a message, since the metrics are printed."""
    identity = {"student_id": student_id, "recipe_id": recipe_id, "run_id": new_run_id(), "exact": evaluation.exact}
    try:
        with writable_lake(config) as lake:
            record_losses(lake, evaluation.documents["student"], **identity)
    except LogitlakeError as error:
        say(f"could not record the losses by document: {error}")


def _measure(
    config: Config, lake: Lake, directory: Path, recipe_name: str | None, where: str | None
) -> list[dict[str, Any]]:
    # Imported here: torch is slow to import.
    from logitlake.flows.distill.evaluation import evaluate_models, held_out_row_set, metric_rows, teacher_engine
    from logitlake.pipeline.evaluation.evaluate import load_student
    from logitlake.pipeline.students.identity import read_facts

    quiet_transformers()
    ids = read_facts(directory).get("row_set", {}).get("recipe_ids", [None])
    recipe_id, recipe = find_recipe(lake, recipe_name or ids[0])
    rows = resolve_row_set(lake, recipe_id=recipe_id, where=where) if where else held_out_row_set(lake, recipe_id)
    if rows is None:
        return []
    trusted = config.student is not None and config.student.trust_remote_code
    student = load_student(directory, trust_remote_code=trusted)
    evaluation = evaluate_models(
        *(lake, rows, recipe, {"student": student}),
        settings=config.evaluation,
        device=config.training.device,
        engine=teacher_engine(config.evaluation, config.teacher, recipe),
    )
    if registered := find_student(lake, read_facts(directory).get("student_id", "-")):
        _record_losses(config, registered["student_id"], recipe_id, evaluation)
    kind = "training sequences (not a measure of quality)" if where else "held-out sequences"
    source = "exact" if evaluation.exact else "estimated from the cache"
    say(f"measured on {rows.n_sequences:,} {kind}; KL is {source}")
    return metric_rows(evaluation)
