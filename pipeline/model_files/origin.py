"""Where a teacher comes from, for people: its name as given, its revision, its licence, the model it was made from.

Kept in the recipe's record and not hashed: the same tensors under another name are the same teacher.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\s*(\r?\n|\Z)", re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherOrigin:
    """`model` is the hub id, directory or file of the settings; `base_models` are named by the model's card."""

    model: str
    revision: str | None = None
    licence: str | None = None
    base_models: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "TeacherOrigin":
        """The origin that `to_dict` gave."""
        return cls(**{**content, "base_models": tuple(content.get("base_models", ()))})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without what is not known."""
        known = {name: value for name, value in asdict(self).items() if value}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}


def find_origin(model: str, revision: str | None, directory: Path) -> TeacherOrigin:
    """The origin of a model in `directory`; a card that can't be read says nothing."""
    card = _card(directory / CARD)
    base = card.get("base_model")
    names = [base] if isinstance(base, str) else base if isinstance(base, list) else []
    return TeacherOrigin(
        model=model,
        revision=_commit_of(directory) or revision,
        licence=_licence(card),
        base_models=tuple(name for name in names if isinstance(name, str)),
    )


def write_card(directory: Path, content: Mapping[str, Any]) -> None:
    """A card with only these fields, for a converted model that brings no card of its own."""
    (directory / CARD).write_text(f"---\n{yaml.safe_dump(dict(content))}---\n", encoding="utf-8")


def _card(path: Path) -> dict[str, Any]:
    try:
        found = _FRONT_MATTER.match(path.read_text(encoding="utf-8"))
        content = yaml.safe_load(found[1]) if found else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _licence(card: Mapping[str, Any]) -> str | None:
    """Cards name a licence of their own by `license: other` and `license_name`."""
    names = [card.get("license_name"), card.get("license")] if card.get("license") == "other" else [card.get("license")]
    return next((name for name in names if isinstance(name, str)), None)


def _commit_of(directory: Path) -> str | None:
    """The commit of a snapshot of the hub's cache: `models--owner--name/snapshots/COMMIT`."""
    resolved = directory.absolute()
    return resolved.name if resolved.parent.name == "snapshots" and _COMMIT.fullmatch(resolved.name) else None
