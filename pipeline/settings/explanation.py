"""What is wrong with settings, in our own words: which setting, what was expected and found, and where it stood."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from logitlake.pipeline.settings.by_name import SettingsByName
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import inner_settings

# Settings whose value may hold a password, in whatever form it was written.
_HIDDEN_VALUES = {"catalog", "notify", "url", "api_key_env"}
_MESSAGE_SAYS_IT_ALL = ("missing", "unknown_name", "setting_of_another", "extra_forbidden")
_LONGEST_VALUE = 200
# Something else stands where a section is expected.
_SECTION_ERRORS = ("dict_type", "model_type", "model_attributes_type")

_EXPECTED = {
    "missing": "is required and not set",
    "invalid_key": "expected a text as the name of a setting",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "literal_error": "expected {expected}",
    "string_pattern_mismatch": "expected a text of the pattern {pattern}",
    "string_too_short": "expected a text of at least {min_length} characters",
    "string_too_long": "expected a text of at most {max_length} characters",
    "finite_number": "expected a finite number",
    "int_from_float": "expected a whole number",
}
# By the first word of the type of an error.
_KINDS = {
    "string": "a text (numbers and dates in quotation marks)",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "a section with names and values",
    "model": "a section with names and values",
    "path": "a path",
}


def explain(
    error: ValidationError, raw: dict[str, Any], path: Path | None, origins: Mapping[tuple[str, ...], str]
) -> str:
    """A heading and a line for each setting. `origins`: what set a place after the file, if it was not the file."""
    sources = [_origin(detail, origins) for detail in error.errors()]
    in_file = path is not None and not all(sources)
    lines = [f"settings{f' in {path}' if in_file else ''}:"]
    told = set[str]()
    for detail, source in zip(error.errors(), sources, strict=True):
        where = ".".join(_place(detail["loc"])) or "(top)"
        # A setting that may be a text or a list has an error for each: the first one is enough.
        if where not in told:
            lines.append(f"  {where}: {_problem(detail, raw)}{f' (set by {source})' if source else ''}")
        told.add(where)
    return "\n".join(lines)


def _place(location: tuple[int | str, ...]) -> list[str]:
    """The names and numbers down to a setting, without what the library adds for the kinds of its value."""
    place = list[str]()
    model: Any = Config
    for part in location:
        if model is None:
            break
        place.append(str(part))
        if isinstance(part, str):
            field = model.model_fields.get(part)
            model = None if field is None else inner_settings(field.annotation)
    return place


def _origin(detail: ErrorDetails, origins: Mapping[tuple[str, ...], str]) -> str | None:
    """What set this value, or the section around it; None: the file, or nothing."""
    place = tuple(str(part) for part in detail["loc"])
    for length in range(len(place), 0, -1):
        if place[:length] in origins:
            return origins[place[:length]]
    # An error of a whole section, such as two settings that exclude each other: one of them was set.
    inside = [source for key, source in origins.items() if place and key[: len(place)] == place]
    return inside[0] if inside else None


def _problem(detail: ErrorDetails, raw: Any) -> str:
    if detail["type"] == "extra_forbidden":
        names = _names_beside(detail["loc"], raw)
        near = get_close_matches(str(detail["loc"][-1]), names, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        return f"unknown setting; {meant}the settings here are: {', '.join(names)}"
    hidden = detail["type"] in _MESSAGE_SAYS_IT_ALL or _HIDDEN_VALUES.intersection(detail["loc"])
    value = "" if hidden else f", found {_shown(detail)}"
    if detail["type"] == "value_error" and isinstance(detail["input"], Mapping):
        # The message tells which settings of the section do not fit together.
        value = ""
    return f"{_expected(detail)}{value if len(value) < _LONGEST_VALUE else ''}{_meant(detail)}"


def _shown(detail: ErrorDetails) -> str:
    """The value as it was found. What stands in place of a section is not shown: it may be an
    address with a secret."""
    if detail["type"] in _SECTION_ERRORS:
        return "nothing" if detail["input"] is None else "no section"
    return repr(detail["input"])


def _expected(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if detail["type"] in ("unknown_name", "setting_of_another"):
        return detail["msg"]
    if detail["type"] == "value_error":
        return str(context["error"])
    if text := _EXPECTED.get(detail["type"]):
        return text.format(**{name: f"{v:g}" if isinstance(v, float) else v for name, v in context.items()})
    kind = _KINDS.get(detail["type"].split("_")[0])
    # No message of the library: it speaks of its own types.
    return f"expected {kind}" if kind else "expected another value"


def _meant(detail: ErrorDetails) -> str:
    """A hint for a word that is nearly one of those that are allowed."""
    if detail["type"] != "literal_error" or not isinstance(detail["input"], str):
        return ""
    words = [word for word in str(detail.get("ctx", {}).get("expected", "")).split("'") if word.isidentifier()]
    near = get_close_matches(detail["input"], words, n=1)
    return f"; did you mean {near[0]}?" if near else ""


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
