"""`logitlake promote` and `logitlake rollback`: point an alias at a student by hand."""

from dataclasses import dataclass
from typing import Annotated

import typer

from logitlake.flows.cli.completion import offer
from logitlake.flows.cli.options import Alias, ResultOptions, option, writable_lake
from logitlake.flows.distill.directories import directory_of
from logitlake.flows.run_ids import new_run_id
from logitlake.flows.terminal.output import print_record
from logitlake.pipeline.students.identity import check_student_files
from logitlake.storage.students.promotions import promote as promote_student
from logitlake.storage.students.promotions import roll_back, student_of
from logitlake.storage.students.registry import named_student


@dataclass(frozen=True, kw_only=True)
class PromoteOptions(ResultOptions):
    """Which student, and why."""

    student: Annotated[
        str,
        typer.Argument(
            help="Student id, its beginning, or another alias.", show_default=False, autocompletion=offer("student")
        ),
    ]
    reason: Annotated[str, typer.Option("--reason", help="Why; stored with the decision.")] = "by hand"
    alias: Alias = None


def promote(options: PromoteOptions) -> None:
    """Point an alias at a student, such as one that was rejected. One atomic change.

    The student's files are compared with their hashes first.
    """
    config = options.config()
    alias = config.redistill.alias
    with writable_lake(config) as lake:
        named = named_student(lake, options.student)
        check_student_files(directory_of(config, named))
        student, before = named["student_id"], student_of(lake, alias)
        figures = {"reason": options.reason}
        promote_student(lake, student, expected=before, figures=figures, run_id=new_run_id(), alias=alias)
    print_record({"alias": alias, "before": before, "now": student}, options.form)


@dataclass(frozen=True, kw_only=True)
class RollbackOptions(ResultOptions):
    """From which student."""

    from_student: Annotated[
        str | None,
        option("--from", help="Only if the alias points at this student (id or its beginning): safe to repeat."),
    ] = None
    alias: Alias = None


def rollback(options: RollbackOptions) -> None:
    """Point an alias at the student that it pointed at before. One atomic change; repeat it to go further back.

    The student that was left is not promoted again automatically; a later one, trained on newer documents, may be.
    """
    config = options.config()
    alias = config.redistill.alias
    with writable_lake(config) as lake:
        left = options.from_student
        before = named_student(lake, left)["student_id"] if left else student_of(lake, alias)
        now = roll_back(lake, expected=before, run_id=new_run_id(), alias=alias)
    print_record({"alias": alias, "before": before, "now": now}, options.form)
