"""`logitlake show`: what is in the lake, and what the settings are."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from flows.completion import offer_what_is_shown
from flows.config_reference import documented_yaml
from flows.lineage_tree import lineage_tree, print_tree
from flows.options import ConfigFile, Debug, LakePath, OutputFormat, Overrides, location_of, settings
from flows.output import Format, print_record, print_rows, say
from pipeline.config import Config
from storage.errors import SettingsError
from storage.lake import Lake
from storage.listings import ancestry, listing
from storage.promotions import decisions, named_student
from storage.registry import find_recipe


class What(StrEnum):
    """What can be shown."""

    RECIPES = "recipes"
    RUNS = "runs"
    COMMITS = "commits"
    DOCUMENTS = "documents"
    REJECTS = "rejects"
    ROW_SETS = "row-sets"
    STUDENTS = "students"
    STUDENT = "student"
    PROMOTIONS = "promotions"
    ALIASES = "aliases"
    LINEAGE = "lineage"
    RECIPE = "recipe"
    CONFIG = "config"


def show(
    what: Annotated[What, typer.Argument(help="What to show.", show_default=False)],
    name: Annotated[
        str | None,
        typer.Argument(
            help="Which student or recipe: id, beginning of it, or alias.",
            show_default=False,
            autocompletion=offer_what_is_shown,
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Rows at most, the newest first.")] = 50,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """List recipes, runs, commits, documents, rejects, row-sets, students, promotions or aliases; show one student, its
    lineage as a tree, or one recipe; or print the settings in effect as a documented logitlake.yaml.
    """
    config = settings(config_file, overrides, {"lake.path": lake})
    if what is What.CONFIG:
        _show_config(config, form)
        return
    with Lake.open(location_of(config)) as opened:
        if what is What.STUDENT:
            _show_student(opened, _required(name, "student"), form)
        elif what is What.LINEAGE:
            _show_lineage(opened, _required(name, "student"), form)
        elif what is What.RECIPE:
            _show_recipe(opened, _required(name, "recipe"), form)
        else:
            found = listing(opened, what.value, limit=limit)
            print_rows(found.rows, form)
            if found.n_rows > found.rows.num_rows:
                say(f"{found.n_rows - found.rows.num_rows:,} more: raise --limit")


def _required(name: str | None, what: str) -> str:
    if name is None:
        raise SettingsError(f"show {what}: expected an id or the beginning of one; `logitlake show {what}s` lists them")
    return name


def _show_config(config: Config, form: Format) -> None:
    if form is Format.JSON:
        print_record(config.model_dump(mode="json"), form)
    else:
        print(documented_yaml(config), end="")


def _show_lineage(lake: Lake, name: str, form: Format) -> None:
    lineage = ancestry(lake, named_student(lake, name)["student_id"])
    if form is Format.TABLE:
        print_tree(lineage_tree(lineage.to_pylist(), decisions(lake)))
    else:
        print_rows(lineage, form)


def _show_student(lake: Lake, name: str, form: Format) -> None:
    student = named_student(lake, name)
    lineage = ancestry(lake, student["student_id"])
    if form is Format.JSON:
        print_record({**student, "lineage": lineage.to_pylist()}, form)
        return
    print_record(student, form, title="Student")
    if form is Format.TABLE:
        print_rows(lineage, form, title="What it and its ancestors saw")


def _show_recipe(lake: Lake, prefix: str, form: Format) -> None:
    recipe_id, recipe = find_recipe(lake, prefix)
    record = {"recipe_id": recipe_id, **recipe}
    if form is not Format.JSON:
        record = {key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in record.items()}
    print_record(record, form, title="Recipe")
