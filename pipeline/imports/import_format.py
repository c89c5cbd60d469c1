"""What a format of an import says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from logitlake.pipeline.imports.sparse_rows import SparseRows
from logitlake.pipeline.settings.registry import IMPORTS
from logitlake.storage.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReader:
    """How the files of one folder are read. `read` takes a batch of rows, whose `lines` it leaves to count from 1.

    `settings`: what decides how the bytes are read, JSON-able; part of the recipe. Raises CorpusError for rows of
    another format.
    """

    read: Callable[[pa.Table], SparseRows]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFormat:
    """One format. `open` takes the folder and a file with the other program's settings, if one was named."""

    open: Callable[[Path, Path | None], ImportReader]


def find_import_format(name: str) -> ImportFormat:
    """The format of a name. Raises SettingsError for an unknown or broken one."""
    found = IMPORTS.load(name)
    if not isinstance(found, ImportFormat):
        raise SettingsError(
            f"import format {name!r} of {IMPORTS.origin(name)}: expected an ImportFormat, found {found!r}; update or "
            "uninstall that distribution"
        )
    return found
