"""The reference of all settings, made from the models.

Renew it with `python -m logitlake.pipeline.settings.reference docs/configuration.md`.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from logitlake.pipeline.settings.by_name import SettingsByName
from logitlake.pipeline.settings.models import Config, CorpusSettings, Settings
from logitlake.pipeline.settings.yaml_file import LISTS, choices_of, inner_settings, scalar

BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def settings_tables() -> str:
    """One Markdown table per section, a row per setting."""
    parts = []
    section_of: dict[type[Settings], str] = {}
    for name, field in Config.model_fields.items():
        model = inner_settings(field.annotation)
        if model is None:
            continue
        if (same := section_of.setdefault(model, name)) != name:
            parts.append(f"### {name}\n\n{LISTS[name]} The settings of one are those of `{same}`.")
            continue
        rows = [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in _rows(name, model)]
        header = ["| setting | default | meaning |", "|---|---|---|"]
        parts.append("\n".join([f"### {name}", "", (model.__doc__ or "").strip(), "", *header, *rows]))
    return "\n\n".join(parts) + "\n"


def with_tables(text: str) -> str:
    """`text` with what stands between the two marks made anew."""
    pattern = re.compile(rf"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)
    return pattern.sub(lambda _: f"\n{settings_tables()}\n", text)


def _rows(prefix: str, model: type[Settings]) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}.{name}"
        inner = inner_settings(field.annotation)
        if inner is None or (inner is CorpusSettings and prefix != "corpora"):
            yield key, _default(field), _meaning(model, name)
        else:
            yield from _rows(key, inner)
    if issubclass(model, SettingsByName) and model.is_section():
        for choice in model.registry.names():
            chosen = model.model_of(choice)
            for name in chosen.own_fields():
                yield (
                    f"{prefix}.{name}",
                    _default(chosen.model_fields[name]),
                    f"{choice}: {_meaning(chosen, name)}",
                )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    return "none" if value is None else f"`{scalar(value)}`"


def _meaning(model: type[Settings], name: str) -> str:
    field = model.model_fields[name]
    bounds = [f"{text} {getattr(rule, name):,}" for rule in field.metadata for name, text in _bounds(rule)]
    notes = [choices_of(model, name), field.description or "", ", ".join(bounds)]
    return "; ".join(note for note in notes if note).replace("|", "\\|")


def _bounds(rule: Any) -> list[tuple[str, str]]:
    return [(name, text) for name, text in _BOUNDS.items() if getattr(rule, name, None) is not None]


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
