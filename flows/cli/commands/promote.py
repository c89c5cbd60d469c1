"""`logitlake promote` and `logitlake rollback`: which student an alias stands for, by hand."""

from typing import Annotated

import typer

from logitlake.flows.cli.completion import offer
from logitlake.flows.cli.options import ConfigFile, Debug, LakePath, OutputFormat, Overrides
from logitlake.flows.run_ids import new_run_id
from logitlake.flows.settings import location_of, settings
from logitlake.flows.terminal.output import Format, print_record
from logitlake.pipeline.settings.models import Config
from logitlake.storage.lake.lake import Lake
from logitlake.storage.students.promotions import promote as promote_student
from logitlake.storage.students.promotions import roll_back, student_of
from logitlake.storage.students.registry import named_student

Alias = Annotated[
    str | None, typer.Option("--alias", help="Name of the line of students (redistill.alias).", show_default=False)
]


def promote(
    student: Annotated[
        str,
        typer.Argument(
            help="Student id, its beginning, or another alias.", show_default=False, autocompletion=offer("student")
        ),
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with the decision.")] = "by hand",
    alias: Alias = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Let an alias stand for a student of your choice, such as one that was rejected. One atomic change."""
    config = settings(config_file, overrides, {"lake.path": lake, "redistill.alias": alias})
    name = config.redistill.alias
    with _writable(config) as opened:
        found = named_student(opened, student)
        before = student_of(opened, name)
        promote_student(
            opened, found["student_id"], expected=before, figures={"reason": reason}, run_id=new_run_id(), alias=name
        )
    print_record({"alias": name, "before": before, "now": found["student_id"]}, form)


def rollback(
    from_student: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Only from this student (id or its beginning): safe to repeat when an answer was lost.",
            show_default=False,
        ),
    ] = None,
    alias: Alias = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Let an alias stand for the student before the one it stands for now. One atomic change; repeat it to go on.

    The student that was left is not promoted again by itself; one that learns from newer documents may be.
    """
    config = settings(config_file, overrides, {"lake.path": lake, "redistill.alias": alias})
    name = config.redistill.alias
    with _writable(config) as opened:
        before = named_student(opened, from_student)["student_id"] if from_student else student_of(opened, name)
        now = roll_back(opened, expected=before, run_id=new_run_id(), alias=name)
    print_record({"alias": name, "before": before, "now": now}, form)


def _writable(config: Config) -> Lake:
    return Lake.open(location_of(config), read_only=False, lock_timeout=config.lake.lock_timeout_seconds)
