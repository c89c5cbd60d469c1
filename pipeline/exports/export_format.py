"""What a format of an export says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from logitlake.pipeline.settings.registry import EXPORTS
from logitlake.storage.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportContext:
    """What a format may need to know of all rows together.

    `recipe`: one of the rows' recipes; they share tokenizer and temperature. `max_entries`: most ids with a probability
    at one position, 0 where the format does not ask for it. `split`: name of the split.
    """

    recipe: Mapping[str, Any]
    max_entries: int
    split: str


def _no_check(context: ExportContext) -> None:
    return None


def _no_files(context: ExportContext) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFormat:
    """One format. `columns`: what it reads of the stored rows. `convert` turns such rows into those of a file.

    `check` raises SettingsError for rows that the other program would misread. `notes`: text of the card about the
    columns. `files`: what lies beside the data, by name. `file_tokens`: tokens of a file at most, unless one work unit
    has more; `part_tokens`: tokens that are converted at once. `needs_max_entries`: whether `convert` needs it.
    """

    columns: tuple[str, ...]
    convert: Callable[[pa.Table, ExportContext], pa.Table]
    notes: str
    check: Callable[[ExportContext], None] = _no_check
    files: Callable[[ExportContext], Mapping[str, str]] = _no_files
    file_tokens: int = 4_000_000
    part_tokens: int = 500_000
    needs_max_entries: bool = False


def find_export_format(name: str) -> ExportFormat:
    """The format of a name. Raises SettingsError for an unknown or broken one."""
    found = EXPORTS.load(name)
    if not isinstance(found, ExportFormat):
        raise SettingsError(
            f"export format {name!r} of {EXPORTS.origin(name)}: expected an ExportFormat, found {found!r}; update or "
            "uninstall that distribution"
        )
    return found
