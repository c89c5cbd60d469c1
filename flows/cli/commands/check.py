"""`logitlake check`: compare the teacher with plain transformers on a few documents, before anything is paid for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from logitlake.flows.cli.options import ResultOptions
from logitlake.flows.settings import require_capture_settings
from logitlake.flows.terminal.output import Format, print_record, print_rows, say
from logitlake.flows.terminal.progress import quiet_transformers
from logitlake.flows.terminal.quantities import bytes_text
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import CorpusError, MismatchError, SettingsError

if TYPE_CHECKING:
    from logitlake.flows.capture.preparation import Prepared
    from logitlake.pipeline.checks.teacher import CheckReport
    from logitlake.pipeline.tokens.sequences import TokenizedDocument

_SHOWN = 3
_LONGEST = 300


@dataclass(frozen=True, kw_only=True)
class CheckOptions(ResultOptions):
    """How much is compared."""

    documents: Annotated[
        int, typer.Option("--documents", "-n", min=1, help="Documents of each corpus, from its beginning.")
    ] = 4


def check(options: CheckOptions) -> None:
    """Compare the teacher with plain transformers on a few documents, before a capture.

    Token ids, labels, probabilities, independence of batches and of later tokens, and stored targets. Prints for each
    check the largest difference and the bound; exit code 4 if a check differs or could not be made. The teacher is
    loaded twice, one after the other. Starts no Prefect server and writes nothing to the lake, which need not exist.
    """
    config = options.config()
    require_capture_settings(config)
    # Imported here: the tokenizer and the hub client are slow to import.
    from logitlake.flows.capture.preparation import prepare

    quiet_transformers()
    prepared = prepare(config)
    if prepared.teacher.is_replayed:
        raise SettingsError(
            "teacher.engine replay: check compares a running teacher, and computes other windows than those that were "
            "recorded; set teacher.engine to the one that was recorded"
        )
    documents = _documents(config, prepared, options.documents)
    report = _checked(prepared, documents)
    _print(report, prepared, documents, options.form)
    _raise_for_differences(report)


def _documents(config: Config, prepared: "Prepared", n_documents: int) -> "list[TokenizedDocument]":
    from logitlake.pipeline.checks.sample import first_documents

    documents = {
        tokenized.document.doc_id: tokenized
        for corpus in config.corpora
        for tokenized in first_documents(corpus, prepared.tokenizer, config.tokenization, n_documents)
    }
    if not documents:
        raise CorpusError(
            "corpora: expected a document to compare, found none that can be used; `logitlake plan` shows why"
        )
    return list(documents.values())


def _checked(prepared: "Prepared", documents: "list[TokenizedDocument]") -> "CheckReport":
    # Imported here: torch is slow to import.
    from logitlake.pipeline.checks.teacher import CheckReport, check_probabilities, check_tokens

    tokens = check_tokens(
        documents,
        source=prepared.source,
        tokenizer=prepared.tokenizer,
        tokenization=prepared.config.tokenization,
    )
    if prepared.recipe.teacher_gives == "top_k":
        from logitlake.pipeline.checks.top_k_teacher import check_top_k

        probabilities = check_top_k(documents, source=prepared.source, recipe=prepared.recipe)
    else:
        probabilities = check_probabilities(
            documents,
            source=prepared.source,
            recipe=prepared.recipe,
            batch_tokens=prepared.config.capture.batch_tokens,
        )
    return CheckReport(
        outcomes=[*tokens.outcomes, *probabilities.outcomes],
        labelled=tokens.labelled,
        measured=probabilities.measured,
    )


def _print(report: "CheckReport", prepared: "Prepared", documents: "list[TokenizedDocument]", form: Format) -> None:
    """As a table: the checks, and the labels of the first chats. In other formats everything."""
    checks = [outcome.as_record() for outcome in report.outcomes]
    if form is not Format.TABLE:
        record: dict[str, Any] = {
            "teacher": prepared.files.name,
            "recipe_id": None if prepared.question else prepared.recipe.recipe_id,
            "documents": len(documents),
            "checks": checks,
            "labelled": report.labelled,
            **report.measured,
        }
        print_record(record, form)
        return
    for row in checks:
        row["compared"] = f"{row['compared']:,} {row.pop('unit')}"
    print_rows(checks, form, title=f"{prepared.files.name} on {len(documents):,} documents")
    if report.labelled:
        shown = [{**row, "labelled": _beginning(" … ".join(row["labelled"]))} for row in report.labelled[:_SHOWN]]
        print_rows(shown, form, title="Labels")
        if len(report.labelled) > _SHOWN:
            say(f"{len(report.labelled) - _SHOWN:,} more: all of them with --format json")
    if report.measured:
        measured = dict(report.measured)
        speed = measured.pop("tokens_per_second")
        memory = [f"{name.replace('_', ' ')}: {bytes_text(value)}" for name, value in measured.items()]
        told = ", ".join([f"about {speed:,.0f} tokens per second", *memory])
        say(f"{told}: `logitlake plan --tokens-per-second {speed:.0f}`")


def _beginning(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text):,} characters)"


def _raise_for_differences(report: "CheckReport") -> None:
    if failed := [outcome for outcome in report.outcomes if outcome.result != "pass"]:
        named = "; ".join(f"{o.check} {o.result} ({o.detail})" for o in failed)
        raise MismatchError(
            f"check: {len(failed)} of {len(report.outcomes)} checks did not pass: {named}; do not capture before you "
            "know why"
        )
