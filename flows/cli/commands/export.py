"""`logitlake export`: the rows of a student, or of a query, as a data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from logitlake.flows.cli.completion import offer
from logitlake.flows.cli.options import RecipeName, ResultOptions, Where, option
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import print_record, say
from logitlake.pipeline.settings.registry import EXPORTS
from logitlake.storage.errors import SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.export import export_rows
from logitlake.storage.row_sets.registered import Reread, read_again
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.students.registry import named_student
from logitlake.storage.writing.recipes import find_recipe

LAKE = "lake"


def _formats() -> list[str]:
    return [LAKE, *EXPORTS.names()]


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ResultOptions):
    """The rows, and where they go."""

    directory: Annotated[Path, typer.Argument(help="Directory to write to; new or empty.", show_default=False)]
    student: Annotated[
        str | None,
        option("--student", help="Export the rows that this student was trained on.", autocompletion=offer("student")),
    ] = None
    row_set: Annotated[
        str | None,
        option("--row-set", help="Export this row set: its id or the beginning.", autocompletion=offer("row-set")),
    ] = None
    where: Where = None
    recipe: RecipeName = None
    kind: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="FORMAT",
            help="Columns: lake (as stored), or those that another program reads (docs/exports.md).",
            autocompletion=lambda incomplete: [name for name in _formats() if name.startswith(incomplete)],
        ),
    ] = LAKE
    push: Annotated[
        str | None,
        option("--push", metavar="REPOSITORY", help="Upload the directory to this data set on the Hugging Face Hub."),
    ] = None
    public: Annotated[
        bool, typer.Option("--public", help="With --push: a repository that is made is public, not private.")
    ] = False
    held_out: Annotated[bool, typer.Option("--held-out", help="Export the held-out documents and no others.")] = False


def export(options: ExportOptions) -> None:
    """Write a row set as Parquet files that `datasets.load_dataset` and DuckDB read, with a file about its origin.

    Rows that were forgotten since a student saw them are missing; the command counts them.
    """
    config, student, row_set = options.config(), options.student, options.row_set
    if options.kind not in _formats():
        raise SettingsError(f"--as {options.kind!r}: expected one of {', '.join(_formats())}")
    if student is not None and row_set is not None:
        raise SettingsError("export: expected --student or --row-set, found both")
    if options.public and options.push is None:
        raise SettingsError("--public: expected --push REPOSITORY, found none")
    if options.push is not None:
        # Imported here: the hub client is slow to import. Before the export, so that no time is lost.
        from logitlake.pipeline.exports.push import check_push

        check_push(options.push)
    with Lake.open(location_of(config)) as lake:
        if student is not None:
            row_set = named_student(lake, student)["row_set_id"]
        if row_set is not None:
            again = read_again(lake, row_set)
        else:
            training = config.training
            recipe_id, _ = find_recipe(lake, training.recipe)
            rows = resolve_row_set(
                lake,
                recipe_id=recipe_id,
                held_out=options.held_out,
                where=training.where,
                weight=training.weight,
                up_to_commit=training.up_to_commit,
            )
            again = Reread(rows=rows, n_missing=0)
        written = _write(lake, again, options.directory.absolute(), options.kind)
    rows = again.rows
    counts = {"n_sequences": rows.n_sequences, "n_tokens": rows.n_tokens, "n_targets": rows.n_targets}
    record: dict[str, object] = {"directory": str(written), "row_set_id": rows.row_set_id, **counts}
    record["n_missing"] = again.n_missing
    if options.push is not None:
        from logitlake.pipeline.exports.push import push

        message = f"Rows of row set {rows.row_set_id[:12]}"
        record["commit"] = push(written, options.push, public=options.public, message=message)
    print_record(record, options.form, title="Exported")
    if again.n_missing:
        say(f"{again.n_missing:,} sequences of this row set were forgotten since: they are missing in the export")


def _write(lake: Lake, again: Reread, directory: Path, kind: str) -> Path:
    if kind == LAKE:
        return export_rows(lake, again.rows, directory, n_missing=again.n_missing)
    # Imported here: the card of a format needs `datasets`.
    from logitlake.pipeline.exports.export_format import find_export_format
    from logitlake.pipeline.exports.write import export_in_format

    return export_in_format(lake, again.rows, directory, find_export_format(kind), n_missing=again.n_missing)
