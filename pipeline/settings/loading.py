"""Settings from YAML: the file, then overrides, then validation with an explanation of what is wrong."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from logitlake.pipeline.settings.by_name import SettingsByName, own_fields_of
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.target import TargetSettings
from logitlake.pipeline.settings.yaml_file import inner_settings
from logitlake.pipeline.settings.yaml_text import NotYamlError, parse_yaml, read_yaml
from logitlake.storage.errors import SettingsError

# Settings whose value may hold a password, in whatever form it was written.
_HIDDEN_VALUES = {"catalog", "notify", "url", "api_key_env"}
_MESSAGE_SAYS_IT_ALL = ("missing", "unknown_name", "setting_of_another")


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
    for key, value, origin in parsed:
        _set(raw, key, value, origin)
    for key, value in (flags or {}).items():
        _set(raw, key, value, f"flag for {key}")
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(_explain(error, raw, path)) from None


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


def _set(raw: dict[str, Any], key: str, value: object, origin: str) -> None:
    """Set one key; `origin` names where it comes from, for the message of an error."""
    *parents, last = key.split(".")
    node: Any = raw
    for parent in parents:
        if isinstance(node, list):
            node = _list_item(node, parent, origin)
            continue
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict | list):
            raise SettingsError(f"{origin}: {parent} is a value, not a section")
    if isinstance(node, list):
        node[node.index(_list_item(node, last, origin))] = value
    else:
        node[last] = value


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


def _explain(error: ValidationError, raw: dict[str, Any], path: Path | None) -> str:
    lines = [f"settings{f' in {path}' if path else ''}:"]
    for detail in error.errors():
        where = ".".join(str(part) for part in detail["loc"]) or "(top)"
        if detail["type"] == "extra_forbidden":
            names = _names_beside(detail["loc"], raw)
            near = get_close_matches(str(detail["loc"][-1]), names, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            lines.append(f"  {where}: unknown setting; {meant}the settings here are: {', '.join(names)}")
        else:
            hidden = detail["type"] in _MESSAGE_SAYS_IT_ALL or _HIDDEN_VALUES.intersection(detail["loc"])
            value = "" if hidden else f", found {detail['input']!r}"
            lines.append(f"  {where}: {detail['msg']}{value if len(value) < 200 else ''}")
    return "\n".join(lines)


def _names_beside(location: tuple[int | str, ...], raw: Any) -> list[str]:
    """The names of all settings of the section that holds a wrong one."""
    model: Any = Config
    for part in location[:-1]:
        raw = raw[part]
        if isinstance(part, str):
            model = inner_settings(model.model_fields[part].annotation)
        if issubclass(model, SettingsByName) and isinstance(raw, dict):
            model = model.model_for(raw)
    return sorted(model.model_fields)
