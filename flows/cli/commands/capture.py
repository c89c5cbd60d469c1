"""`logitlake capture`: run the teacher over what is new."""

from typing import TYPE_CHECKING, Annotated

import typer

from logitlake.flows.cli.options import (
    ConfigFile,
    Debug,
    LakePath,
    MaxHours,
    MaxTokens,
    OutputFormat,
    Overrides,
    TargetBytes,
)
from logitlake.flows.runtime.environment import arrange_prefect, run_flow
from logitlake.flows.settings import location_of, require_capture_settings, settings
from logitlake.flows.terminal.comparison import comparison_rows
from logitlake.flows.terminal.output import Format, print_record, print_rows, say
from logitlake.flows.terminal.quantities import named_text
from logitlake.pipeline.settings.models import Config

if TYPE_CHECKING:
    from logitlake.flows.reports import CaptureReport


def capture(
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
    unit_tokens: Annotated[
        int | None,
        typer.Option("--unit-tokens", help="Tokens per work unit (capture.unit_tokens).", show_default=False),
    ] = None,
    target_bytes: TargetBytes = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Run the teacher over the documents that the lake does not hold yet, and commit what it thought of every token.

    Each work unit is committed by itself: stop it at any moment, run it again, and it goes on where it was. With
    nothing new the teacher is not even loaded.
    """
    flags = {
        "lake.path": lake,
        "capture.max_tokens": max_tokens,
        "capture.max_hours": max_hours,
        "capture.unit_tokens": unit_tokens,
        "target.target_bytes": target_bytes,
    }
    config = settings(config_file, overrides, flags)
    require_capture_settings(config)
    find_cheap_mistakes(config)
    arrange_prefect(location_of(config))
    from logitlake.flows.capture.flow import capture as flow

    report = run_flow(flow, config)
    print_captured(report, form)
    for line in outcome(report):
        say(line)


def print_captured(report: "CaptureReport", form: Format) -> None:
    """What the run did, and beside what was expected of it."""
    if form is not Format.TABLE:
        print_record({**report.as_record(), "compared": report.comparison()}, form)
        return
    record = {name: named_text(name, value) or value for name, value in report.as_record().items()}
    print_record(record, form, title="Captured")
    if rows := comparison_rows(report.comparison()):
        print_rows(rows, form, title="Expected, and what it took")


def find_cheap_mistakes(config: Config) -> None:
    """Raise what the flow would raise for a teacher or a corpus that is not there, before a server is started."""
    # Imported here: `--help` needs neither a hub client nor the readers.
    from logitlake.pipeline.corpus.readers.registry import read_corpus
    from logitlake.pipeline.teachers.files import resolve_teacher

    assert config.teacher is not None
    for corpus in config.corpora:
        if corpus.is_local:
            next(read_corpus(corpus), None)
    resolve_teacher(config.teacher)


def outcome(report: "CaptureReport") -> list[str]:
    """What the numbers do not say by themselves: why no more was captured, and where rejects are to be seen."""
    lines = []
    if report.stopped:
        lines.append(f"stopped: {report.stopped}; raise it and run again to go on")
    elif not report.n_units and not report.documents_seen:
        lines.append("nothing captured: the corpora hold no document that can be read")
    elif not report.n_units and report.documents_known + report.documents_repeated == report.documents_seen:
        lines.append("nothing to do: every usable document of the corpora is in the lake under this recipe")
    if report.documents_rejected:
        lines.append(f"{report.documents_rejected:,} rejected: `logitlake show rejects` says where and why")
    return lines
