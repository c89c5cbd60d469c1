"""`logitlake forget` and `logitlake retire`: what must, or may, be gone."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from logitlake.flows.cli.completion import offer
from logitlake.flows.cli.options import ResultOptions, option, writable_lake
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import Format, Row, print_record, print_rows, say
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LakeError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.upkeep.forgetting import (
    find_documents,
    retire_recipe,
    sources_of,
    students_that_saw,
    whole_id,
    with_traces,
)
from logitlake.storage.upkeep.forgetting import forget as forget_documents
from logitlake.storage.writing.recipes import find_recipe

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class ForgetOptions(ResultOptions):
    """Which documents, and why."""

    doc_ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of documents, or their beginnings.", show_default=False)
    ] = None
    source: Annotated[
        str | None,
        option(
            "--source",
            help="Every document of corpus/path, or of a folder if it ends in /.",
            autocompletion=offer("document"),
        ),
    ] = None
    where: Annotated[str | None, option("--where", help="SQL condition over the view documents.")] = None
    reason: Annotated[str, typer.Option("--reason", help="Why; stored with the tombstone.")] = "asked for"
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the documents and students; change nothing.")] = False


def forget(options: ForgetOptions) -> None:
    """Forget documents for ever under every recipe, and list the students that were trained on them.

    The documents leave queries and training at once, and the disk at the next `logitlake maintain`. This can't be
    undone: a forgotten document is rejected if it is captured again.
    """
    config, doc_ids = options.config(), options.doc_ids
    if (bool(doc_ids) + (options.source is not None) + (options.where is not None)) != 1:
        raise SettingsError("forget: expected exactly one of: ids of documents, --source, --where")
    with _lake(config, writable=not options.dry_run) as lake:
        if doc_ids:
            chosen = sorted({whole_id(lake, doc_id) for doc_id in doc_ids})
        else:
            chosen = find_documents(lake, source=options.source, where=options.where)
        if not chosen:
            raise LakeError(
                f"forget: the lake holds no document of {options.source or options.where}; nothing was forgotten"
            )
        chosen = with_traces(lake, chosen)
        sources = sources_of(lake, chosen)
        if options.dry_run:
            record: dict[str, Any] = {"doc_ids": chosen, "student_ids": students_that_saw(lake, chosen)}
        else:
            done = forget_documents(lake, chosen, reason=options.reason)
            record = {"doc_ids": done.doc_ids, "n_sequences": done.n_sequences, "student_ids": done.student_ids}
    _print(record, sources, options.form, title="Would be forgotten" if options.dry_run else "Forgotten")
    if absent := len(chosen) - len(sources):
        say(f"{_counted(absent, 'document is', 'documents are')} not in the lake and will never be captured")
    if record["student_ids"]:
        say(
            f"{_counted(len(record['student_ids']), 'student was', 'students were')} trained on them and unchanged: "
            "retrain or delete them"
        )


@dataclass(frozen=True, kw_only=True)
class RetireOptions(ResultOptions):
    """Which recipe."""

    recipe: Annotated[
        str, typer.Argument(help="Recipe id or its beginning.", show_default=False, autocompletion=offer("recipe"))
    ]
    yes: Annotated[bool, typer.Option("--yes", help="Remove the rows; without it nothing is changed.")] = False


def retire(options: RetireOptions) -> None:
    """Remove all rows cached under one recipe, such as those of a teacher that was replaced.

    Its students and their lineage stay. Their rows can be read again only after a new capture.
    """
    config = options.config()
    with _lake(config, writable=options.yes) as lake:
        recipe_id, _ = find_recipe(lake, options.recipe)
        if options.yes:
            n_sequences = retire_recipe(lake, recipe_id)
        else:
            n_sequences = lake.row("SELECT n_sequences FROM recipes WHERE recipe_id = ?", [recipe_id])["n_sequences"]
    record = {"recipe_id": recipe_id, "n_sequences": int(n_sequences or 0), "retired": options.yes}
    print_record(record, options.form)
    if not options.yes:
        say("nothing was changed; run it with --yes to remove these rows")


def _print(record: Row, sources: dict[str, list[str]], form: Format, *, title: str) -> None:
    """As a table: counts, and the first documents with their sources. In other formats everything."""
    if form is not Format.TABLE:
        print_record(record, form)
        return
    print_record({**record, "doc_ids": f"{len(record['doc_ids']):,} documents"}, form, title=title)
    shown = [{"doc_id": doc_id, "seen in": ", ".join(sources.get(doc_id, ["nowhere"]))} for doc_id in record["doc_ids"]]
    print_rows(shown[:_SHOWN], form, title=f"The first {_SHOWN}" if len(shown) > _SHOWN else "")
    if len(shown) > _SHOWN:
        say(f"{len(shown) - _SHOWN:,} more documents: all of them with --format json")


def _lake(config: Config, *, writable: bool) -> Lake:
    return writable_lake(config) if writable else Lake.open(location_of(config))


def _counted(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"
