"""`logitlake plan`: what a capture would compute, write and cost, before anything is paid for."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from logitlake.flows.capture.estimate import Rates, estimate, spread_of
from logitlake.flows.cli.options import MaxHours, MaxTokens, ResultOptions, TargetBytes, flag, option
from logitlake.flows.settings import location_of, require_capture_settings
from logitlake.flows.terminal.output import Format, print_record, print_rows, say
from logitlake.flows.terminal.progress import progress_bar
from logitlake.flows.terminal.quantities import named_text
from logitlake.pipeline.settings.models import Config
from logitlake.storage.answers.history import earlier_estimates
from logitlake.storage.errors import CorpusError, LakeMissingError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.writing.known_documents import KnownDocuments, known_to_all

if TYPE_CHECKING:
    from logitlake.pipeline.capture.planning import WorkUnit
    from logitlake.pipeline.corpus.rejects import RejectCount


@dataclass(frozen=True, kw_only=True)
class PlanOptions(ResultOptions):
    """The caps of a capture, and what a person knows about the machine."""

    max_tokens: MaxTokens = None
    max_hours: MaxHours = None
    target_bytes: TargetBytes = None
    tokens_per_second: Annotated[
        float | None, option("--tokens-per-second", min=0.001, help="Speed of the teacher, if you know it.")
    ] = None
    price_per_hour: Annotated[
        float | None,
        flag("capture.price_per_hour", "--price-per-hour", min=0.0, help="Price of one hour of the machine"),
    ] = None


def plan(options: PlanOptions) -> None:
    """Show what a capture would compute, write and cost. Reads and tokenizes the corpora; does not load the teacher.

    The counts are exactly those of a capture. Hours and bytes are estimates, each with its source. What can't be used
    is counted by corpus and reason, with an example of each. Exit code 3 if it is so much that a capture would stop;
    counting goes on all the same, to the end of the corpora or to `capture.max_tokens`.
    """
    config = options.config()
    require_capture_settings(config)
    record = _plan(config, options.tokens_per_second)
    if options.form is Format.TABLE:
        print_record(_with_units(record), options.form, title="Plan")
        if record["rejects"]:
            print_rows(record["rejects"], options.form, title="Rejects")
    else:
        print_record(record, options.form)
    if record["refusals"]:
        raise CorpusError("\n".join(record["refusals"]))


def _plan(config: Config, tokens_per_second: float | None) -> dict[str, Any]:
    # Imported here: the tokenizer and the hub client are slow to import.
    from logitlake.flows.capture.engine_notes import engine_notes
    from logitlake.flows.capture.estimate import expected_rates
    from logitlake.flows.capture.other_tokenizer import other_tokenizer
    from logitlake.flows.capture.preparation import guards_of, prepare
    from logitlake.pipeline.capture.planning import count_plan
    from logitlake.pipeline.corpus.rejects import RejectTally

    prepared = prepare(config)
    for line in engine_notes(prepared):
        say(line)
    recipe_id = None if prepared.question else prepared.recipe.recipe_id
    earlier: list[dict[str, Any]] = []
    guards, tally = guards_of(config, stops=False), RejectTally()
    plan = prepared.plan(lambda doc_ids: set(), guards)
    try:
        with Lake.open(location_of(config)) as lake:
            rates = expected_rates(prepared, lake, given_speed=tokens_per_second)
            earlier = earlier_estimates(lake)
            if recipe_id is not None:
                if warning := other_tokenizer(prepared, lake):
                    say(warning)
                known = known_to_all([KnownDocuments(lake, recipe.recipe_id) for recipe in prepared.recipes])
                plan = prepared.plan(known, guards)
    except LakeMissingError:
        say("there is no lake yet, so every document is new")
        rates = expected_rates(prepared, None, given_speed=tokens_per_second)
    if recipe_id is None:
        say("target_bytes: the first capture probes the teacher to settle the recipe; until then every document is new")
    with progress_bar("planning", unit="tokens") as bar:

        def count(unit: "WorkUnit") -> None:
            bar.advance(unit.n_tokens)
            for reject in unit.rejects:
                tally.add(reject)

        summary = count_plan(plan, on_unit=count)
    names = {"recipe_id": recipe_id, "teacher": prepared.files.name}
    counts = {
        "documents_seen": summary.documents,
        "documents_known": summary.stored,
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
    return {
        **names,
        **counts,
        "ends": stops,
        **costs,
        "rejects": _reject_rows(tally.counts()),
        "refusals": [str(guard.refusal) for guard in guards.values() if guard.refusal],
        "earlier_estimates": earlier,
    }


def _reject_rows(counts: "Iterable[RejectCount]") -> list[dict[str, Any]]:
    return [
        {
            "corpus": count.first.corpus,
            "reason": str(count.first.reason),
            "rejects": count.n_rejects,
            "source": count.first.source,
            "line": count.first.line,
            "detail": count.first.detail,
        }
        for count in counts
    ]


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
        record["max_hours"] = f"{max_hours:g} h are enough for about {max_hours / taken.hours:.0%} of the tokens"
    return record


def _with_units(record: dict[str, Any]) -> dict[str, Any]:
    """The record with units, and the errors of this lake's earlier estimates that had the same kind of source."""
    earlier = record["earlier_estimates"]
    apart = {"rejects", "refusals", "earlier_estimates"}
    shown = {name: named_text(name, value) or value for name, value in record.items() if name not in apart}
    for kind, basis in (("time", "tokens_per_second_from"), ("bytes", "bytes_per_token_from")):
        source = record[basis].split()[0]
        ratios = [row[f"{kind}_ratio"] for row in earlier if row[f"{kind}_from"].split()[0] == source]
        if ratios:
            shown[f"{kind}_in_earlier_runs"] = f"{spread_of(ratios)} against the estimate ({source.rstrip(':')})"
    return shown
