"""`logitlake show`: what is in the lake, and what the settings are."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from logitlake.flows.cli.completion import offer, offer_what_is_shown
from logitlake.flows.cli.options import ConfigFile, Debug, LakePath, OutputFormat, Overrides
from logitlake.flows.cli.screens.document import show_document
from logitlake.flows.cli.screens.lake import show_lake
from logitlake.flows.cli.screens.lineage import show_lineage
from logitlake.flows.cli.screens.recipe import show_recipe
from logitlake.flows.cli.screens.run import show_run
from logitlake.flows.cli.screens.student import show_student
from logitlake.flows.settings import location_of, settings
from logitlake.flows.terminal.output import Format, print_record, print_rows, say
from logitlake.flows.terminal.screen import print_list
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import documented_yaml
from logitlake.storage.answers.listings import listing
from logitlake.storage.errors import SettingsError
from logitlake.storage.lake.lake import Lake

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


def show(
    what: Annotated[What, typer.Argument(help="What to show.", show_default=False)] = What.LAKE,
    name: Annotated[
        str | None,
        typer.Argument(
            help="Which one: the beginning of an id; for a student also an alias, for a document also its source.",
            show_default=False,
            autocompletion=offer_what_is_shown,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", "-n", min=1, help="Rows of a list, or tokens of a document, at most.", show_default=False
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="document: the recipe whose tokens are shown; default: the newest.",
            show_default=False,
            autocompletion=offer("recipe"),
        ),
    ] = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Show the lake on one screen, or one recipe, run, student or document, or a list of them.

    Lists: recipes, runs, commits, documents, rejects, row-sets, students, promotions, aliases; the newest first. One
    thing by its name: recipe, run (`last` will do), student, lineage (of a student, as a tree), document (its text
    coloured by how much it surprised the teacher). `config` prints the settings in effect as a documented
    logitlake.yaml.
    """
    config = settings(config_file, overrides, {"lake.path": lake})
    if what is What.CONFIG:
        _show_config(config, form)
        return
    wanted = _required(what, name)
    with Lake.open(location_of(config)) as opened:
        if what is What.LAKE:
            show_lake(opened, form)
        elif what is What.RECIPE:
            show_recipe(opened, wanted, form)
        elif what is What.RUN:
            show_run(opened, wanted, form)
        elif what is What.STUDENT:
            show_student(opened, wanted, form)
        elif what is What.LINEAGE:
            show_lineage(opened, wanted, form)
        elif what is What.DOCUMENT:
            show_document(opened, wanted, form, recipe=recipe, limit=limit)
        else:
            _show_list(opened, what, limit or _ROWS, form)


def _required(what: What, name: str | None) -> str:
    """The name, which one kind must have and the other must not. Raises SettingsError."""
    if what in _ONE_OF_MANY and name is None:
        raise SettingsError(f"show {what}: expected which one; `logitlake show {_ONE_OF_MANY[what]}` lists them")
    if what not in _ONE_OF_MANY and name is not None:
        raise SettingsError(f"show {what}: shows all of it and takes no name, found {name!r}")
    return name or ""


def _show_list(lake: Lake, what: What, limit: int, form: Format) -> None:
    found = listing(lake, what.value, limit=limit)
    if form is Format.TABLE and not found.n_rows:
        say(f"no {what.value.replace('-', ' ')} yet")
    elif form is Format.TABLE and sys.stdout.isatty():
        print_list(found.rows.to_pylist())
    else:
        print_rows(found.rows, form)
    if found.n_rows > found.rows.num_rows:
        say(f"{found.n_rows - found.rows.num_rows:,} more: raise --limit")


def _show_config(config: Config, form: Format) -> None:
    if form is Format.JSON:
        print_record(config.model_dump(mode="json"), form)
    else:
        print(documented_yaml(config), end="")
