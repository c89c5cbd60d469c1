"""`logitlake show lake`: contents, growth, students, health and last runs."""

from typing import Any

from logitlake.flows.terminal.output import Format, readable
from logitlake.flows.terminal.screen import Sections, print_screen
from logitlake.storage.answers.overview import overview
from logitlake.storage.lake.lake import Lake


def show_lake(lake: Lake, form: Format) -> None:
    """The lake on one screen."""
    facts = overview(lake)
    print_screen(facts if form is not Format.TABLE else _for_a_person(facts), form)


def _for_a_person(facts: dict[str, Any]) -> Sections:
    return {
        "Lake": facts["lake"],
        "Size": {**facts["size"], "held_out_documents": _share(facts["size"])},
        "Recipes": facts["recipes"],
        "Growth, by day": facts["growth"],
        "Students": facts["students"],
        "Health": _health(facts["health"]),
        "Last runs": facts["runs"],
    }


def _share(size: dict[str, Any]) -> str:
    held, documents = size["held_out_documents"], size["documents"]
    return f"{held:,} ({held / documents:.1%})" if documents else "0"


def _health(facts: dict[str, Any]) -> dict[str, Any]:
    if facts["last_upkeep"] is None:
        upkeep = "never: run `logitlake maintain`"
    else:
        upkeep = f"{readable(facts['last_upkeep'])} UTC, {facts['last_upkeep_ended']}"
        upkeep += f": {facts['last_upkeep_error']}" if facts["last_upkeep_error"] else ""
        upkeep += f", {facts['units_verified']:,} units verified" if facts["units_verified"] else ""
    return {
        "last_upkeep": upkeep,
        "runs_failed_in_7_days": facts["runs_failed_in_7_days"],
        "runs_without_an_end": _open(facts["runs_without_an_end"]),
        "small_files": facts["small_files"],
        "snapshots": facts["snapshots"],
        "forgotten_rows_on_disk": _forgotten(facts["forgotten_rows_on_disk"]),
        "known_damage": facts["known_damage"] or "none",
    }


def _open(n_runs: int) -> str:
    return f"{n_runs:,} (running, or killed)" if n_runs else "0"


def _forgotten(there: bool) -> str:
    return "yes: `logitlake maintain` removes them" if there else "none"
