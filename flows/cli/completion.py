"""Completion of names in the shell: ids, aliases and sources from the lake, each with a short description.

After any error (no lake, a wrong setting) nothing is offered.
"""

from collections.abc import Callable, Mapping
from typing import Any

import typer

from logitlake.storage.errors import LogitlakeError

Offer = tuple[str, str]


def offer(kind: str) -> Callable[[typer.Context, str], list[Offer]]:
    """A callback for `autocompletion` that offers the names of one kind (see logitlake.storage.answers.names)."""

    def complete(ctx: typer.Context, incomplete: str) -> list[Offer]:
        return known_names(ctx.params, kind, incomplete)

    return complete


def offer_what_is_shown(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """For `show WHAT NAME`: the names of the kind that WHAT is."""
    what = str(ctx.params.get("what") or "")
    return known_names(ctx.params, "student" if what == "lineage" else what, incomplete)


def offer_setting(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """For `--set`: the names of settings, each with `=`; after it, the words that the setting may hold."""
    # Imported here: completing commands and options needs no settings.
    from logitlake.pipeline.settings.names import setting_names

    name, separator, _ = incomplete.partition("=")
    names = setting_names()
    if separator:
        words = names[name].words if name in names else ()
        return [(f"{name}={word}", "") for word in words if f"{name}={word}".startswith(incomplete)]
    return [(f"{name}=", setting.note) for name, setting in names.items() if name.startswith(incomplete)]


def known_names(given: Mapping[str, Any], kind: str, beginning: str) -> list[Offer]:
    """Names of one kind that start with `beginning`, from the lake that the earlier options name."""
    # Imported here: completing commands and options needs no lake.
    from logitlake.flows.settings import location_of, settings
    from logitlake.storage.answers.listings import NAMES, names
    from logitlake.storage.lake.lake import Lake

    if kind not in NAMES:
        return []
    try:
        config = settings(given.get("config_file"), given.get("overrides"), {"lake.path": given.get("lake")})
        with Lake.open(location_of(config)) as lake:
            return names(lake, kind, beginning)
    except LogitlakeError:
        return []
