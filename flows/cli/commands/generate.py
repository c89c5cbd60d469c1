"""`logitlake generate`: let a model write completions for prompts, and keep those that a verifier accepts."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from logitlake.flows.cli.options import ResultOptions, flag, option
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import Format, print_record, say
from logitlake.flows.terminal.progress import progress_bar
from logitlake.flows.terminal.quantities import named_text
from logitlake.pipeline.settings.models import Config
from logitlake.storage.answers.history import writer_speed
from logitlake.storage.errors import LakeMissingError
from logitlake.storage.lake.lake import Lake

if TYPE_CHECKING:
    from logitlake.flows.generate.preparation import PreparedWriter
    from logitlake.flows.reports import GenerateReport


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(ResultOptions):
    """The writer, the number of samples and prompts, and whether only to plan."""

    plan: Annotated[bool, option("--plan", help="Only show what would be written; load no model.")] = False
    writer: Annotated[
        str | None, flag("generate.writer", "--writer", help="`teacher`, or a student's directory, id or alias")
    ] = None
    samples: Annotated[int | None, flag("generate.samples", "--samples", help="Completions for each prompt")] = None
    max_prompts: Annotated[
        int | None, flag("generate.max_prompts", "--max-prompts", help="Take only the first so many prompts")
    ] = None


def generate(options: GenerateOptions) -> None:
    """Write the completions that the lake does not hold yet, let the verifier judge them, and commit both.

    Each work unit is committed by itself: stop the command at any moment and run it again to continue. With another
    verifier the traces of the lake are judged again, and none is written anew. `capture` then takes what is kept, with
    a corpus of kind `traces`.
    """
    config = options.config()
    if options.plan:
        record = _planned(config)
        shown = {name: named_text(name, value) or value for name, value in record.items()}
        print_record(shown if options.form is Format.TABLE else record, options.form, title="Plan")
        return
    # Imported here: the tokenizer is slow to import.
    from logitlake.flows.generate.command import run_generate

    print_generated(run_generate(config), options.form)


def print_generated(report: "GenerateReport", form: Format) -> None:
    """What the run did, and what to look at."""
    record = report.as_record()
    if form is Format.TABLE:
        record = {name: named_text(name, value) or value for name, value in record.items()}
    print_record(record, form, title="Generated")
    if not report.n_units:
        waiting = (
            f"; {report.n_waiting:,} wait for a verdict" if report.n_waiting else ", with a verdict of this verifier"
        )
        say(f"nothing to do: the lake holds every sample of the prompts{waiting}")
    if report.n_verdicts:
        dropped = report.n_verdicts - report.n_kept
        say(f"{report.n_kept:,} kept, {dropped:,} dropped: the view `traces` has the reasons")
    if report.prompts_rejected:
        say(f"{report.prompts_rejected:,} rejected: `logitlake show rejects` lists them with the reasons")


def _planned(config: Config) -> dict[str, Any]:
    # Imported here: the tokenizer and the hub client are slow to import.
    from logitlake.flows.generate.preparation import prepare_writer

    prepared = prepare_writer(config)
    try:
        with Lake.open(location_of(config)) as lake:
            return _counted(prepared, lake)
    except LakeMissingError:
        say("there is no lake yet, so every sample is new")
        return _counted(prepared, None)


def _counted(prepared: "PreparedWriter", lake: Lake | None) -> dict[str, Any]:
    from logitlake.flows.generate.run import planned

    plan = planned(prepared, lake)
    with progress_bar("planning", unit="samples") as bar:
        for unit in plan:
            bar.advance(len(unit.requests))
    record: dict[str, Any] = {
        "writer": prepared.name,
        "sampling_id": prepared.recipe.sampling_id,
        "verifier_id": prepared.config.generate.verifier.verifier_id,
        **asdict(plan.summary),
    }
    speed = writer_speed(lake, prepared.recipe.sampling_id) if lake is not None else None
    if speed is not None:
        new_tokens = plan.summary.tokens_at_most - plan.summary.prompt_tokens
        record |= {"tokens_per_second": speed, "hours_at_most": new_tokens / speed / 3600}
        price = prepared.config.capture.price_per_hour
        if price is not None:
            record["cost_at_most"] = record["hours_at_most"] * price
    return record
