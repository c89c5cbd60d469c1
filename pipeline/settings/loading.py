"""Settings from YAML: the file, then overrides, then validation with an explanation of what is wrong."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from logitlake.pipeline.settings.by_name import SettingsByName
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import inner_settings
from logitlake.storage.errors import SettingsError

_MESSAGE_SAYS_IT_ALL = ("missing", "unknown_name", "setting_of_another")


def load_config(path: Path | None, overrides: tuple[str, ...] = ()) -> Config:
    """The settings of a YAML file with `section.key=value` overrides on top (values are YAML).

    Raises SettingsError for a file that can't be read, a key that does not exist, or a value out of bounds.
    """
    raw = _read_yaml(path) if path else {}
    for override in overrides:
        _apply_override(raw, override)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(_explain(error, raw, path)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"settings file {path}: can't be read ({error.strerror}); it is named by --config or LOGITLAKE_CONFIG"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path}: not valid YAML: {error}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise SettingsError(f"settings file {path}: expected a mapping at the top, found {type(raw).__name__}")
    return raw


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise SettingsError(f"override {override!r}: expected section.key=value, such as training.epochs=2")
    *parents, last = key.strip().split(".")
    node: Any = raw
    for parent in parents:
        if isinstance(node, list):
            node = _list_item(node, parent, override)
            continue
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict | list):
            raise SettingsError(f"override {override!r}: {parent} is a value, not a section")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"override {override!r}: the value is not valid YAML: {error}") from None
    if isinstance(node, list):
        node[node.index(_list_item(node, last, override))] = value
    else:
        node[last] = value


def _list_item(items: list[Any], name: str, override: str) -> Any:
    """An item of a list by its number or, for corpora, by its name."""
    for number, item in enumerate(items):
        if name == str(number) or (isinstance(item, dict) and item.get("name") == name):
            return item
    raise SettingsError(f"override {override!r}: no item {name!r}; there are {len(items)}, named or counted from 0")


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
            value = "" if detail["type"] in _MESSAGE_SAYS_IT_ALL else f", found {detail['input']!r}"
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
