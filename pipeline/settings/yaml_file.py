"""The settings as a YAML file that explains itself: every key, its value in effect, and what it means."""

import math
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from logitlake.pipeline.settings.by_name import SettingsByName
from logitlake.pipeline.settings.models import Config, Settings
from logitlake.pipeline.settings.registry import NameIn

_WIDTH = 40
# Settings that are lists of sections, and what they are.
LISTS = {
    "corpora": "The sources of documents, each under a different name.",
    "targets": "Further targets, drawn in the same pass of the teacher; each is a recipe of its own.",
}


def documented_yaml(config: Config) -> str:
    """`config` as YAML with a comment at each key. Optional sections that are not set stand commented out.

    Loading the text again gives the same configuration.
    """
    lines = ["# Every setting of logitlake, with its value in effect. Any of them: --set section.key=value", ""]
    for name, field in Config.model_fields.items():
        lines += [*_section(name, getattr(config, name), field), ""]
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, value: Any, field: FieldInfo) -> list[str]:
    if name in LISTS:
        return _items(name, value, inner_settings(field.annotation))
    if value is None:
        return _example(name, inner_settings(field.annotation))
    return [*_purpose(type(value)), f"{name}:", *_keys(value, "  ")]


def _items(name: str, sections: tuple[Settings, ...], model: type[Settings]) -> list[str]:
    purpose = [f"# {LISTS[name]}"]
    if not sections:
        return [*purpose, *_example(name, model, item=True)]
    lines = [*purpose, f"{name}:"]
    for section in sections:
        first, *rest = _keys(section, "    ")
        lines += ["  - " + first.strip(), *rest]
    return lines


def inner_settings(annotation: Any) -> Any:
    """The model of a section within an annotation (`X`, `X | None`, `tuple[X, ...]`); None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    if get_origin(annotation) in (Union, UnionType, tuple, Annotated):
        return next(filter(None, map(inner_settings, get_args(annotation))), None)
    return None


def _keys(model: Settings, indent: str) -> list[str]:
    lines = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, Settings):
            lines += [f"{indent}{name}:", *_keys(value, indent + "  ")]
        elif value is None and (model_of := inner_settings(field.annotation)):
            lines += [f"{indent}{line}" for line in _example(name, model_of)]
        else:
            lines.append(_line(f"{indent}{name}: {scalar(value)}", field, choices_of(type(model), name)))
    return lines


def _example(name: str, model: type[Settings], *, item: bool = False) -> list[str]:
    lines = [*_purpose(model), f"# {name}:"]
    for number, (key, field) in enumerate(model.model_fields.items()):
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        text = "" if field.is_required() else scalar(default)
        lead = ("  - " if number == 0 else "    ") if item else "  "
        lines.append("#" + _line(f" {lead}{key}: {text}", field, choices_of(model, key)))
    return lines


def _line(text: str, field: FieldInfo, choices: str) -> str:
    notes = [note for note in (choices, field.description) if note]
    return f"{text.rstrip():<{_WIDTH}} # {'; '.join(notes)}" if notes else text.rstrip()


def choices_of(model: type[Settings], name: str) -> str:
    """The words that a setting may hold, if it holds words of a list."""
    field = model.model_fields[name]
    registries = [rule.registry for rule in field.metadata if isinstance(rule, NameIn)]
    if issubclass(model, SettingsByName) and name == model.name_field:
        registries = [model.registry]
    return " | ".join(registries[0].names()) if registries else _words_of(field.annotation)


def _words_of(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(filter(None, map(_words_of, get_args(annotation))))
    return ""


def _purpose(model: type[Settings]) -> list[str]:
    return [f"# {(model.__doc__ or '').strip().splitlines()[0]}"]


def scalar(value: Any) -> str:
    """A value on one line: a list and a mapping in YAML's short form."""
    known = isinstance(value, str | int | float | dict | None)
    plain = list(value) if isinstance(value, tuple) else value if known else str(value)
    dumped = yaml.safe_dump(plain, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
    text = dumped.removesuffix("...\n").strip(" \n")
    # YAML folds some characters that it writes as they are, such as a new line and U+0085: these need escapes.
    return text if "\n" not in text and yaml.safe_load(text) == plain else _quoted(plain)


def _quoted(value: Any) -> str:
    """As `scalar`, with every text in quotation marks and everything but ASCII as escapes."""
    if isinstance(value, str):
        return yaml.safe_dump(value, default_style='"', width=math.inf).removesuffix("...\n").strip(" \n")
    if isinstance(value, list):
        return f"[{', '.join(map(_quoted, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_quoted(name)}: {_quoted(inner)}' for name, inner in value.items())}}}"
    return yaml.safe_dump(value).removesuffix("...\n").strip(" \n")
