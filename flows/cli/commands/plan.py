"""`logitlake plan`: what a capture would compute, write and cost, before anything is paid for."""

from typing import Annotated, Any

import typer

from logitlake.flows.capture.estimate import Rates, estimate, spread_of
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
from logitlake.flows.settings import location_of, require_capture_settings, settings
from logitlake.flows.terminal.output import Format, print_record, say
from logitlake.flows.terminal.progress import progress_bar
from logitlake.flows.terminal.quantities import named_text
from logitlake.pipeline.settings.models import Config
from logitlake.storage.answers.history import earlier_estimates
from logitlake.storage.errors import LakeMissingError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.writing.known_documents import KnownDocuments


def plan(
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
    target_bytes: TargetBytes = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            "--tokens-per-second", min=0.001, help="Speed of the teacher, if you know it.", show_default=False
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            "--price-per-hour",
            min=0.0,
            help="What an hour of the machine costs (capture.price_per_hour).",
            show_default=False,
        ),
    ] = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Say what a capture would compute, write and cost. Reads and tokenises the corpora; loads no teacher.

    The counts are those of a capture, not an estimate; hours and bytes are estimates that say where they come from.
    """
    flags = {
        "lake.path": lake,
        "capture.max_tokens": max_tokens,
        "capture.max_hours": max_hours,
        "capture.price_per_hour": price_per_hour,
        "target.target_bytes": target_bytes,
    }
    config = settings(config_file, overrides, flags)
    require_capture_settings(config)
    record = _plan(config, tokens_per_second)
    print_record(_for_a_person(record) if form is Format.TABLE else record, form, title="Plan")
    if record["documents_rejected"]:
        say(
            f"{record['documents_rejected']:,} of the documents can't be used: a capture notes where and why, and "
            "`logitlake show rejects` shows it"
        )


def _plan(config: Config, tokens_per_second: float | None) -> dict[str, Any]:
    # Imported here: a tokenizer and a hub client are no business of the other commands.
    from logitlake.flows.capture.estimate import expected_rates
    from logitlake.flows.capture.preparation import prepare
    from logitlake.pipeline.capture.planning import count_plan

    prepared = prepare(config)
    recipe_id = None if prepared.question else prepared.recipe.recipe_id
    earlier: list[dict[str, Any]] = []
    plan = prepared.plan(lambda doc_ids: set())
    try:
        with Lake.open(location_of(config)) as lake:
            rates = expected_rates(prepared, lake, said_speed=tokens_per_second)
            earlier = earlier_estimates(lake)
            if recipe_id is not None:
                plan = prepared.plan(KnownDocuments(lake, recipe_id))
    except LakeMissingError:
        say("no lake yet: everything is new")
        rates = expected_rates(prepared, None, said_speed=tokens_per_second)
    if recipe_id is None:
        say("target_bytes: the first capture makes a probe, and its answer decides the recipe; until then all is new")
    with progress_bar("planning", unit="tokens") as bar:
        summary = count_plan(plan, on_tokens=bar.advance)
    found = {"recipe_id": recipe_id, "teacher": prepared.files.name}
    counts = {
        "documents_seen": summary.documents,
        "documents_known": summary.known,
        "documents_repeated": summary.repeated,
        "documents_rejected": summary.rejected,
        "documents_new": summary.new,
        "sequences": summary.sequences,
        "tokens": summary.tokens,
        "targets": summary.targets,
        "units": summary.units,
    }
    stops = f"at max_tokens {config.capture.max_tokens:,}" if summary.capped else "at the end of the corpora"
    costs = _costs(summary.tokens, rates, config.capture.max_hours)
    return {**found, **counts, "ends": stops, **costs, "earlier_estimates": earlier}


def _costs(n_tokens: int, rates: Rates, max_hours: float | None) -> dict[str, Any]:
    taken = estimate(n_tokens, rates)
    record: dict[str, Any] = {
        "bytes_on_disk": taken.n_bytes,
        "bytes_per_token": rates.bytes_per_token.value,
        "bytes_per_token_from": rates.bytes_per_token.source,
        "hours": taken.hours,
        "tokens_per_second": rates.tokens_per_second.value,
        "tokens_per_second_from": rates.tokens_per_second.source,
    }
    if taken.cost is not None:
        record["cost"] = taken.cost
    if max_hours is not None and taken.hours > max_hours:
        record["max_hours"] = f"{max_hours:g} h stop it after about {max_hours / taken.hours:.0%} of the tokens"
    return record


def _for_a_person(record: dict[str, Any]) -> dict[str, Any]:
    """The same with units, and how good estimates of this lake were before: those that came from where these do."""
    earlier = record["earlier_estimates"]
    shown = {name: named_text(name, value) or value for name, value in record.items() if name != "earlier_estimates"}
    for kind, basis in (("time", "tokens_per_second_from"), ("bytes", "bytes_per_token_from")):
        way = record[basis].split()[0]
        ratios = [row[f"{kind}_ratio"] for row in earlier if row[f"{kind}_from"].split()[0] == way]
        if ratios:
            shown[f"{kind}_was_before"] = f"{spread_of(ratios)}, against what was expected ({way.rstrip(':')})"
    return shown
