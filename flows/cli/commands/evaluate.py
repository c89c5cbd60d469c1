"""`logitlake evaluate`: how good a student is on documents that no student was trained on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from logitlake.flows.cli.completion import offer
from logitlake.flows.cli.options import ConfigFile, Debug, LakePath, OutputFormat, Overrides
from logitlake.flows.distill.directories import directory_of
from logitlake.flows.run_ids import new_run_id
from logitlake.flows.settings import location_of, settings
from logitlake.flows.terminal.output import Format, print_rows, say
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LakeError, LogitlakeError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.students.losses import record_losses
from logitlake.storage.students.promotions import student_of
from logitlake.storage.students.registry import find_student
from logitlake.storage.writing.recipes import find_recipe


def evaluate(
    student: Annotated[
        str | None,
        typer.Argument(
            help="Directory, or id in the lake (its beginning will do), or alias; default: training.output.",
            autocompletion=offer("student"),
        ),
    ] = None,
    teacher: Annotated[
        bool | None,
        typer.Option(
            "--teacher/--no-teacher",
            help="Measure against the teacher itself, or against the cache (evaluation.teacher).",
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", help="Held-out tokens at most (evaluation.max_tokens).", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="Recipe id or its beginning; default: the student's.",
            show_default=False,
            autocompletion=offer("recipe"),
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            help="Instead, the training documents of this condition over sequences: where there is most to learn.",
            show_default=False,
        ),
    ] = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Measure a student, or any model with the teacher's tokenizer, on the held-out documents of the lake.

    Cross-entropy on the real tokens, KL from the teacher with its standard error, agreement with its likeliest token
    and calibration error; in nats, means over targets. For a student of the lake the losses are kept by document: see
    the view `student_losses`.
    """
    flags = {"lake.path": lake, "evaluation.teacher": teacher, "evaluation.max_tokens": max_tokens}
    config = settings(config_file, overrides, flags)
    with Lake.open(location_of(config)) as opened:
        directory = _directory(opened, student, config)
        print_rows(_measure(config, opened, directory, recipe or config.training.recipe, where), form)


def _directory(lake: Lake, student: str | None, config: Config) -> Path:
    named = config.training.output if student is None else Path(student).expanduser()
    if named.is_dir():
        return named
    found = find_student(lake, student_of(lake, student) or student) if student else {}
    if found and (directory := directory_of(config, found)).is_dir():
        return directory
    if found:
        raise LakeError(f"student {student}: the lake knows it in {found['directory']}, and there is nothing now")
    raise SettingsError(
        f"student {student or named}: no such directory, no student of the lake, no alias; `logitlake show "
        "students` lists those there are"
    )


def _keep(config: Config, student_id: str, recipe_id: str, found: Any) -> None:
    """The losses by document, for SQL; a lake that can't be written to costs them, and not the figures."""
    which = {"student_id": student_id, "recipe_id": recipe_id, "run_id": new_run_id(), "exact": found.exact}
    try:
        timeout = config.lake.lock_timeout_seconds
        with Lake.open(location_of(config), read_only=False, lock_timeout=timeout) as lake:
            record_losses(lake, found.documents["student"], **which)
    except LogitlakeError as error:
        say(f"the losses by document were not kept: {error}")


def _measure(
    config: Config, lake: Lake, directory: Path, wanted: str | None, where: str | None
) -> list[dict[str, Any]]:
    # Imported here: torch is no business of the other commands.
    from logitlake.flows.distill.evaluation import evaluate_models, held_out_row_set, metric_rows, teacher_engine
    from logitlake.pipeline.evaluation.evaluate import load_student
    from logitlake.pipeline.students.identity import read_facts

    ids = read_facts(directory).get("row_set", {}).get("recipe_ids", [None])
    recipe_id, recipe = find_recipe(lake, wanted or ids[0])
    rows = resolve_row_set(lake, recipe_id=recipe_id, where=where) if where else held_out_row_set(lake, recipe_id)
    if rows is None:
        return []
    trusted = config.student is not None and config.student.trust_remote_code
    student = load_student(directory, trust_remote_code=trusted)
    found = evaluate_models(
        *(lake, rows, recipe, {"student": student}),
        settings=config.evaluation,
        device=config.training.device,
        engine=teacher_engine(config.evaluation, config.teacher, recipe),
    )
    if known := find_student(lake, read_facts(directory).get("student_id", "-")):
        _keep(config, known["student_id"], recipe_id, found)
    measured_on = "sequences that students may train on: no measure of a student" if where else "held-out sequences"
    say(f"{rows.n_sequences:,} {measured_on}; KL {'is exact' if found.exact else 'is estimated from the cache'}")
    return metric_rows(found)
