"""`logitlake show recipe`: its settings, and what is cached under it."""

from typing import Any

from logitlake.flows.terminal.output import Format, print_record
from logitlake.flows.terminal.screen import print_screen
from logitlake.storage.answers.details import recipe_facts
from logitlake.storage.lake.lake import Lake
from logitlake.storage.writing.recipes import find_recipe


def show_recipe(lake: Lake, beginning: str, form: Format) -> None:
    """A recipe by the beginning of its id. JSON has the recipe's own keys, and the facts beside them."""
    recipe_id, recipe = find_recipe(lake, beginning)
    facts = recipe_facts(lake, recipe_id)
    if form is Format.JSON:
        print_record({"recipe_id": recipe_id, **recipe, **facts}, form)
        return
    sections = {
        "Recipe": {"id": recipe_id, **flat(recipe)},
        "Rows": facts["holds"],
        "Captures": facts["captures"],
        "Students trained on it": facts["students"],
    }
    print_screen(sections, form)


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, such as `sparsifier threshold`."""
    named: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            named |= flat(value, f"{prefix}{key} ")
        else:
            named[f"{prefix}{key}"] = value
    return named
