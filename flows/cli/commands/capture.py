"""`logitlake capture`: run the teacher over what is new."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from logitlake.flows.cli.options import MaxHours, MaxTokens, ResultOptions, TargetBytes, flag
from logitlake.flows.settings import require_capture_settings
from logitlake.flows.terminal.comparison import comparison_rows
from logitlake.flows.terminal.output import Format, print_record, print_rows, say
from logitlake.flows.terminal.quantities import named_text
from logitlake.pipeline.settings.models import Config

if TYPE_CHECKING:
    from logitlake.flows.reports import CaptureReport


@dataclass(frozen=True, kw_only=True)
class CaptureOptions(ResultOptions):
    """Caps, the size of a work unit, and the size of a target."""

    max_tokens: MaxTokens = None
    max_hours: MaxHours = None
    unit_tokens: Annotated[int | None, flag("capture.unit_tokens", "--unit-tokens", help="Tokens per work unit")] = None
    target_bytes: TargetBytes = None


def capture(options: CaptureOptions) -> None:
    """Run the teacher over the documents that the lake does not hold yet, and commit its targets for every token.

    Each work unit is committed by itself: stop the command at any moment and run it again to continue. The teacher is
    not loaded if there is nothing new, and no Prefect server is started.
    """
    config = options.config()
    require_capture_settings(config)
    find_cheap_mistakes(config)
    # Imported here: the tokenizer is slow to import.
    from logitlake.flows.capture.command import run_capture

    report = run_capture(config)
    print_captured(report, options.form)
    for line in outcome(report):
        say(line)


def print_captured(report: "CaptureReport", form: Format) -> None:
    """What the run did, and what was expected of it."""
    if form is not Format.TABLE:
        print_record({**report.as_record(), "compared": report.comparison()}, form)
        return
    values = {name: value for name, value in report.as_record().items() if value != ""}
    record = {name: named_text(name, value) or value for name, value in values.items()}
    print_record(record, form, title="Captured")
    if rows := comparison_rows(report.comparison()):
        print_rows(rows, form, title="Expected and measured")


def find_cheap_mistakes(config: Config) -> None:
    """Raise the flow's errors about a missing teacher or corpus before a Prefect server is started."""
    # Imported here: the hub client is slow to import.
    from logitlake.pipeline.model_files.files import resolve_teacher
    from logitlake.pipeline.teachers.registry import check_engine

    assert config.teacher is not None
    check_engine(config.teacher, config.target)
    for corpus in config.corpora:
        if corpus.is_local:
            next(corpus.read(), None)
    resolve_teacher(config.teacher)


def outcome(report: "CaptureReport") -> list[str]:
    """Why no more was captured, and how to see the rejects."""
    lines = []
    if report.stopped:
        lines.append(f"stopped: {report.stopped}; raise it and run again to continue")
    elif not report.n_units and not report.documents_seen:
        lines.append("nothing captured: the corpora hold no readable document")
    elif not report.n_units and report.documents_known + report.documents_repeated == report.documents_seen:
        lines.append("nothing to do: the lake holds every usable document of the corpora under this recipe")
    if report.documents_rejected:
        lines.append(f"{report.documents_rejected:,} rejected: `logitlake show rejects` lists them with the reasons")
    return lines
