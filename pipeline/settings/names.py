"""The dotted names of all settings that stand in no list, for completion."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from logitlake.pipeline.settings.by_name import SettingsByName
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import LISTS, choices_of, inner_settings


class SettingName(NamedTuple):
    """The words that a setting may hold, empty if it holds something else, and what it means."""

    words: tuple[str, ...]
    note: str


def setting_names() -> dict[str, SettingName]:
    """Every setting by its dotted name, such as `training.epochs`; of a list of sections only that of the list."""
    return dict(_names(Config, ""))


def _names(model: Any, prefix: str) -> Iterator[tuple[str, SettingName]]:
    # What only one sparsifier has can be set too.
    models = [model]
    if issubclass(model, SettingsByName) and "registry" in vars(model):
        models += [model.model_of(name) for name in model.registry.built_in]
    seen = set[str]()
    for kind in models:
        for name, field in kind.model_fields.items():
            if name in seen:
                continue
            seen.add(name)
            inner = inner_settings(field.annotation)
            if inner is not None and name not in LISTS:
                yield from _names(inner, f"{prefix}{name}.")
            else:
                words = choices_of(kind, name)
                note = field.description or words
                yield f"{prefix}{name}", SettingName(tuple(words.split(" | ")) if words else (), note)
