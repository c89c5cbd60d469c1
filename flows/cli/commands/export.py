"""`logitlake export`: the rows of a student, or of a query, as a data set."""

from pathlib import Path
from typing import Annotated

import typer

from logitlake.flows.cli.completion import offer
from logitlake.flows.cli.options import ConfigFile, Debug, LakePath, OutputFormat, Overrides
from logitlake.flows.settings import location_of, settings
from logitlake.flows.terminal.output import Format, print_record, say
from logitlake.storage.errors import SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.export import export_rows
from logitlake.storage.row_sets.registered import Reread, read_again
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.students.registry import named_student
from logitlake.storage.writing.recipes import find_recipe


def export(
    directory: Annotated[Path, typer.Argument(help="Where the data set goes; new or empty.", show_default=False)],
    student: Annotated[
        str | None,
        typer.Option(
            "--student", help="What this student was trained on.", show_default=False, autocompletion=offer("student")
        ),
    ] = None,
    row_set: Annotated[
        str | None,
        typer.Option(
            "--row-set",
            help="This row set: its id or the beginning.",
            show_default=False,
            autocompletion=offer("row-set"),
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", help="SQL condition over the view sequences (training.where).", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="Recipe id or its beginning (training.recipe).",
            show_default=False,
            autocompletion=offer("recipe"),
        ),
    ] = None,
    held_out: Annotated[bool, typer.Option("--held-out", help="The held-out documents, and nothing else.")] = False,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Write a row set as Parquet files that `datasets.load_dataset` and DuckDB load, with a note of where it is from.

    What was forgotten since a student saw it is missing, and reported.
    """
    flags = {"lake.path": lake, "training.where": where, "training.recipe": recipe}
    config = settings(config_file, overrides, flags)
    if student is not None and row_set is not None:
        raise SettingsError("export: expected --student or --row-set, found both")
    with Lake.open(location_of(config)) as opened:
        if student is not None:
            row_set = named_student(opened, student)["row_set_id"]
        if row_set is not None:
            again = read_again(opened, row_set)
        else:
            training = config.training
            recipe_id, _ = find_recipe(opened, training.recipe)
            rule = {"where": training.where, "weight": training.weight, "up_to_commit": training.up_to_commit}
            again = Reread(
                rows=resolve_row_set(opened, recipe_id=recipe_id, held_out=held_out, **rule),  # type: ignore[arg-type]
                n_missing=0,
            )
        written = export_rows(opened, again.rows, directory.absolute(), n_missing=again.n_missing)
    rows = again.rows
    counts = {"n_sequences": rows.n_sequences, "n_tokens": rows.n_tokens, "n_targets": rows.n_targets}
    record = {"directory": str(written), "row_set_id": rows.row_set_id, **counts, "n_missing": again.n_missing}
    print_record(record, form, title="Exported")
    if again.n_missing:
        say(f"{again.n_missing:,} sequences that were seen then are forgotten now: they are not in the data set")
