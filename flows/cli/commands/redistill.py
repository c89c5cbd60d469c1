"""`logitlake redistill`: one night of new data."""

from dataclasses import dataclass

from logitlake.flows.cli.commands.capture import find_cheap_mistakes
from logitlake.flows.cli.options import Alias, MaxHours, MaxTokens, ResultOptions
from logitlake.flows.redistill.run import require_redistill_settings
from logitlake.flows.terminal.output import print_record, say


@dataclass(frozen=True, kw_only=True)
class RedistillOptions(ResultOptions):
    """Caps of the capture, and the alias."""

    max_tokens: MaxTokens = None
    max_hours: MaxHours = None
    alias: Alias = None


def redistill(options: RedistillOptions) -> None:
    """Capture new documents, train the current student on them, and promote the result if it is no worse.

    With nothing new it ends within seconds and starts no Prefect server. Stop it at any moment and run it again to
    continue.
    """
    config = options.config()
    require_redistill_settings(config)
    find_cheap_mistakes(config)
    # Imported here: the tokenizer is slow to import.
    from logitlake.flows.redistill.command import run_redistill

    report = run_redistill(config)
    print_record(report.as_record(), options.form, title="Redistilled")
    say(f"{report.outcome}: {report.reason}")
