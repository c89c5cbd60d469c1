"""`logitlake train`: a student from the cache, the teacher switched off."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from logitlake.flows.cli.completion import offer
from logitlake.flows.cli.options import ConfigFile, Debug, LakePath, OutputFormat, Overrides
from logitlake.flows.runtime.environment import arrange_prefect, run_flow
from logitlake.flows.settings import location_of, read_query, settings
from logitlake.flows.terminal.output import Format, print_record, say


def train(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the student goes (training.output).", show_default=False),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", help="SQL condition over the view sequences (training.where).", show_default=False),
    ] = None,
    weight: Annotated[
        str | None,
        typer.Option("--weight", help="SQL expression: sampling weight (training.weight).", show_default=False),
    ] = None,
    query: Annotated[
        Path | None,
        typer.Option(
            "--query",
            help="File with a SELECT of doc_id, and of a weight if wanted: the documents (training.query).",
            show_default=False,
        ),
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
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Times over the rows (training.epochs).", show_default=False)
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option("--layers", help="Cut the student from the teacher (student.layers).", show_default=False),
    ] = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Train a student from the lake. Held-out documents are never trained on, whatever --where or --query say.

    A student is known by its parent, its rows and its settings: one that exists already is not trained again.
    """
    flags = {
        "lake.path": lake,
        "training.output": output,
        "training.where": where,
        "training.weight": weight,
        "training.query": None if query is None else read_query(query),
        "training.recipe": recipe,
        "training.epochs": epochs,
        "student.layers": layers,
    }
    config = settings(config_file, overrides, flags)
    # Imported here: `--help` needs no tokenizer.
    from logitlake.flows.distill.job import require_student
    from logitlake.flows.distill.run import plan_student

    require_student(config)
    job, report = plan_student(config)
    if report is None:
        arrange_prefect(location_of(config))
        from logitlake.flows.distill.flow import distill as flow

        report = run_flow(partial(flow, job=job), config)
    print_record(report.as_record(), form, title="Student")
    if not report.trained:
        say(f"nothing to do: student {report.student_id} is in {report.directory} already")
