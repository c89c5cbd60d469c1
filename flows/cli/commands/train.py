"""`logitlake train`: a student from the cache, the teacher switched off."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from logitlake.flows.cli.options import RecipeName, ResultOptions, Where, flag, option
from logitlake.flows.runtime.environment import arrange_prefect, run_flow
from logitlake.flows.settings import location_of, read_query
from logitlake.flows.terminal.output import print_record, say


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ResultOptions):
    """The rows, the student, and where it goes."""

    output: Annotated[Path | None, flag("training.output", "--output", "-o", help="Directory of the student")] = None
    where: Where = None
    weight: Annotated[
        str | None, flag("training.weight", "--weight", help="SQL expression: sampling weight of a sequence")
    ] = None
    query: Annotated[
        Path | None,
        option(
            "--query",
            help="File with a SELECT of doc_id, and optionally weight: the documents to train on (training.query).",
        ),
    ] = None
    recipe: RecipeName = None
    epochs: Annotated[int | None, flag("training.epochs", "--epochs", help="Passes over the rows")] = None
    layers: Annotated[
        int | None, flag("student.layers", "--layers", help="Cut the student from the teacher: number of layers")
    ] = None


def train(options: TrainOptions) -> None:
    """Train a student from the lake. Held-out documents are never trained on, whatever --where or --query select.

    A student is identified by its parent, its rows and its settings. If it exists, nothing is trained.
    """
    query = None if options.query is None else read_query(options.query)
    config = options.config(**{"training.query": query})
    # Imported here: the tokenizer is slow to import.
    from logitlake.flows.distill.job import require_student
    from logitlake.flows.distill.run import plan_student

    require_student(config)
    job, report = plan_student(config)
    if report is None:
        arrange_prefect(location_of(config))
        from logitlake.flows.distill.flow import distill as flow

        report = run_flow(partial(flow, job=job), config)
    print_record(report.as_record(), options.form, title="Student")
    if not report.trained:
        say(f"nothing to do: student {report.student_id} exists in {report.directory}")
