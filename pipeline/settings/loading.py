"""Settings from YAML: the file, then overrides, then validation with an explanation of what is wrong."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from logitlake.pipeline.settings.by_name import own_fields_of
from logitlake.pipeline.settings.explanation import explain
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.target import TargetSettings
from logitlake.pipeline.settings.yaml_text import NotYamlError, parse_yaml, read_yaml
from logitlake.storage.errors import SettingsError


def load_config(path: Path | None, overrides: Sequence[str] = (), flags: Mapping[str, object] | None = None) -> Config:
    """The settings of a YAML file, then `section.key=value` overrides (the values are YAML), then flags.

    `flags` are values by dotted key, such as `lake.path`; they are set as they are. An override of the sparsifier
    removes the settings of the file that only the former sparsifier has. Raises SettingsError for a file that can't be
    read, a key that does not exist, or a value out of bounds.
    """
    raw = _read_yaml(path) if path else {}
    parsed = [(*_parsed(override), f"override {override!r}") for override in overrides]
    for key, value, _ in parsed:
        if key == "target.sparsifier":
            _remove_settings_of_other_sparsifiers(raw.get("target"), value)
    origins = dict[tuple[str, ...], str]()
    for key, value, origin in parsed:
        origins[_set(raw, key, value, origin)] = "--set"
    for key, value in (flags or {}).items():
        origins[_set(raw, key, value, f"flag for {key}")] = "an option of the command"
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(explain(error, raw, path, origins)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = read_yaml(path)
    except OSError as error:
        raise SettingsError(
            f"settings file {path}: can't be read ({error.strerror}); it is named by --config or LOGITLAKE_CONFIG"
        ) from None
    except NotYamlError as error:
        raise SettingsError(f"settings file {path}: {error}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise SettingsError(f"settings file {path}: expected a mapping at the top, found {type(raw).__name__}")
    return raw


def _parsed(override: str) -> tuple[str, Any]:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise SettingsError(f"override {override!r}: expected section.key=value, such as training.epochs=2")
    try:
        return key.strip(), parse_yaml(text)
    except NotYamlError as error:
        raise SettingsError(f"override {override!r}: {error}") from None


def _set(raw: dict[str, Any], key: str, value: object, origin: str) -> tuple[str, ...]:
    """Set one key; `origin` names where it comes from, for the message of an error. Returns where it is, by number."""
    place = list[str]()
    *parents, last = key.split(".")
    node: Any = raw
    for parent in parents:
        if isinstance(node, list):
            item = _list_item(node, parent, origin)
            place.append(str(node.index(item)))
            node = item
            continue
        place.append(parent)
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict | list):
            raise SettingsError(f"{origin}: {parent} is a value, not a section")
    if isinstance(node, list):
        number = node.index(_list_item(node, last, origin))
        node[number] = value
        return (*place, str(number))
    node[last] = value
    return (*place, last)


def _remove_settings_of_other_sparsifiers(target: Any, name: Any) -> None:
    if not isinstance(target, dict) or name not in TargetSettings.registry:
        return
    for other in TargetSettings.registry.names():
        for field in set(own_fields_of(TargetSettings, other)) - set(own_fields_of(TargetSettings, name)):
            target.pop(field, None)


def _list_item(items: list[Any], name: str, origin: str) -> Any:
    """An item of a list by its number or, for corpora, by its name."""
    for number, item in enumerate(items):
        if name == str(number) or (isinstance(item, dict) and item.get("name") == name):
            return item
    raise SettingsError(f"{origin}: expected a name, or a number from 0 to {len(items) - 1}, found {name!r}")
