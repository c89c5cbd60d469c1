"""`logitlake forget` and `logitlake retire`: what must, or may, be gone."""

from typing import Annotated, Any

import typer

from logitlake.flows.cli.completion import offer
from logitlake.flows.cli.options import ConfigFile, Debug, LakePath, OutputFormat, Overrides
from logitlake.flows.settings import location_of, settings
from logitlake.flows.terminal.output import Format, Row, print_record, print_rows, say
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LakeError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.upkeep.forgetting import find_documents, retire_recipe, sources_of, students_that_saw, whole_id
from logitlake.storage.upkeep.forgetting import forget as forget_documents
from logitlake.storage.writing.recipes import find_recipe

_SHOWN = 10


def forget(
    doc_ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of documents, or their beginnings.", show_default=False)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            help="All of a source: corpus/path, or a folder ending in /.",
            show_default=False,
            autocompletion=offer("document"),
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", help="SQL condition over the view documents.", show_default=False),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with the tombstone.")] = "asked for",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Name the documents and students; change nothing.")
    ] = False,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Forget documents under every recipe, for ever; says which students had learned from them.

    Gone from queries and training when the command ends, from disk after the next `logitlake maintain`. There is no way
    back: the documents are refused if they come again.
    """
    config = settings(config_file, overrides, {"lake.path": lake})
    if (bool(doc_ids) + (source is not None) + (where is not None)) != 1:
        raise SettingsError("forget: expected ids of documents, or --source, or --where: one of the three")
    with _opened(config, read_only=dry_run) as opened:
        if doc_ids:
            found = sorted({whole_id(opened, doc_id) for doc_id in doc_ids})
        else:
            found = find_documents(opened, source=source, where=where)
        if not found:
            raise LakeError(f"forget: no document of {source or where} is in the lake; nothing was forgotten")
        known = sources_of(opened, found)
        if dry_run:
            record: dict[str, Any] = {"doc_ids": found, "student_ids": students_that_saw(opened, found)}
        else:
            done = forget_documents(opened, found, reason=reason)
            record = {"doc_ids": done.doc_ids, "n_sequences": done.n_sequences, "student_ids": done.student_ids}
    _print(record, known, form, title="Would be forgotten" if dry_run else "Forgotten")
    if absent := len(found) - len(known):
        say(f"{absent} not in the lake: nothing of them to remove; once forgotten, they are refused if they come")
    if record["student_ids"]:
        say(f"{len(record['student_ids'])} students had learned from them, and still have: somebody must decide")


def retire(
    recipe: Annotated[
        str, typer.Argument(help="Recipe id or its beginning.", show_default=False, autocompletion=offer("recipe"))
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it is only said what would go.")] = False,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Remove everything that is cached under one recipe, such as that of a teacher which was replaced.

    Its students stay, and what they saw stays on record; their rows can be read again only after another capture.
    """
    config = settings(config_file, overrides, {"lake.path": lake})
    with _opened(config, read_only=not yes) as opened:
        recipe_id, _ = find_recipe(opened, recipe)
        if yes:
            n_sequences = retire_recipe(opened, recipe_id)
        else:
            n_sequences = opened.row("SELECT n_sequences FROM recipes WHERE recipe_id = ?", [recipe_id])["n_sequences"]
    print_record({"recipe_id": recipe_id, "n_sequences": int(n_sequences or 0), "retired": yes}, form)
    if not yes:
        say("nothing was changed: --yes removes these rows")


def _print(record: Row, sources: dict[str, list[str]], form: Format, *, title: str) -> None:
    """For a person counts, and the first documents with where they were seen; for a program everything."""
    if form is not Format.TABLE:
        print_record(record, form)
        return
    print_record({**record, "doc_ids": f"{len(record['doc_ids']):,} documents"}, form, title=title)
    shown = [{"doc_id": doc_id, "seen in": ", ".join(sources.get(doc_id, ["nowhere"]))} for doc_id in record["doc_ids"]]
    print_rows(shown[:_SHOWN], form, title="The first of them" if len(shown) > _SHOWN else "")
    if len(shown) > _SHOWN:
        say(f"{len(shown) - _SHOWN:,} more documents: all of them with --format json")


def _opened(config: Config, *, read_only: bool) -> Lake:
    return Lake.open(location_of(config), read_only=read_only, lock_timeout=config.lake.lock_timeout_seconds)
