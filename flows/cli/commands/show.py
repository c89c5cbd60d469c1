"""`logitlake show`: what is in the lake, and what the settings are."""

import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from logitlake.flows.cli.completion import offer, offer_what_is_shown
from logitlake.flows.cli.options import ResultOptions, option
from logitlake.flows.cli.screens.document import show_document
from logitlake.flows.cli.screens.lake import show_lake
from logitlake.flows.cli.screens.lineage import show_lineage
from logitlake.flows.cli.screens.recipe import show_recipe
from logitlake.flows.cli.screens.run import show_run
from logitlake.flows.cli.screens.student import show_student
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import Format, print_record, print_rows, say
from logitlake.flows.terminal.screen import print_list
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import documented_yaml
from logitlake.storage.answers.listings import listing
from logitlake.storage.errors import SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.redaction import has_password, without_secrets

_ROWS = 50


class What(StrEnum):
    """What can be shown."""

    LAKE = "lake"
    RECIPES = "recipes"
    RUNS = "runs"
    COMMITS = "commits"
    DOCUMENTS = "documents"
    REJECTS = "rejects"
    ROW_SETS = "row-sets"
    STUDENTS = "students"
    PROMOTIONS = "promotions"
    ALIASES = "aliases"
    RECIPE = "recipe"
    RUN = "run"
    STUDENT = "student"
    LINEAGE = "lineage"
    DOCUMENT = "document"
    CONFIG = "config"


_ONE_OF_MANY = {
    What.RECIPE: "recipes",
    What.RUN: "runs",
    What.STUDENT: "students",
    What.LINEAGE: "students",
    What.DOCUMENT: "documents",
}


@dataclass(frozen=True, kw_only=True)
class ShowOptions(ResultOptions):
    """What, which one, and how much of it."""

    what: Annotated[What, typer.Argument(help="What to show.", show_default=False)] = What.LAKE
    name: Annotated[
        str | None,
        typer.Argument(
            help="Which one: the beginning of an id; a student also by alias, a document also by source.",
            show_default=False,
            autocompletion=offer_what_is_shown,
        ),
    ] = None
    limit: Annotated[
        int | None, option("--limit", "-n", min=1, help="Show at most this many rows, or tokens of a document.")
    ] = None
    recipe: Annotated[
        str | None,
        option(
            "--recipe", help="document: the recipe of the tokens; default: the newest.", autocompletion=offer("recipe")
        ),
    ] = None


def show(options: ShowOptions) -> None:
    """Show the lake on one screen; or one recipe, run, student or document; or a list.

    Lists, newest first: recipes, runs, commits, documents, rejects, row-sets, students, promotions, aliases. One thing
    by name: recipe, run (`last` is the newest), student, lineage (a student's ancestors as a tree), document (its text,
    coloured by the teacher's surprise). `config` prints the settings in effect as a documented logitlake.yaml.
    """
    config, what, form = options.config(), options.what, options.form
    if what is What.CONFIG:
        _show_config(config, form)
        return
    name = _required(what, options.name)
    with Lake.open(location_of(config)) as lake:
        if what is What.LAKE:
            show_lake(lake, form)
        elif what is What.RECIPE:
            show_recipe(lake, name, form)
        elif what is What.RUN:
            show_run(lake, name, form)
        elif what is What.STUDENT:
            show_student(lake, name, form)
        elif what is What.LINEAGE:
            show_lineage(lake, name, form)
        elif what is What.DOCUMENT:
            show_document(lake, name, form, recipe=options.recipe, limit=options.limit)
        else:
            _show_list(lake, what, options.limit or _ROWS, form)


def _required(what: What, name: str | None) -> str:
    """The name: expected for one thing, refused for the lake and for lists. Raises SettingsError."""
    if what in _ONE_OF_MANY and name is None:
        raise SettingsError(
            f"show {what}: expected a name, found none; `logitlake show {_ONE_OF_MANY[what]}` lists the names"
        )
    if what not in _ONE_OF_MANY and name is not None:
        raise SettingsError(f"show {what}: expected no name, found {name!r}")
    return name or ""


def _show_list(lake: Lake, what: What, limit: int, form: Format) -> None:
    page = listing(lake, what.value, limit=limit)
    if form is Format.TABLE and not page.n_rows:
        say(f"no {what.value.replace('-', ' ')} yet")
    elif form is Format.TABLE and sys.stdout.isatty():
        print_list(page.rows.to_pylist())
    else:
        print_rows(page.rows, form)
    if page.n_rows > page.rows.num_rows:
        say(f"{page.n_rows - page.rows.num_rows:,} more rows: raise --limit")


def _show_config(config: Config, form: Format) -> None:
    catalog = config.lake.catalog
    if catalog is not None and has_password(catalog):
        lake = config.lake.model_copy(update={"catalog": without_secrets(catalog)})
        config = config.model_copy(update={"lake": lake})
        say("the password in lake.catalog is shown as ***: write it again, or keep it in ~/.pgpass or PGPASSWORD")
    if form is Format.JSON:
        print_record(config.model_dump(mode="json"), form)
    else:
        print(documented_yaml(config), end="")
