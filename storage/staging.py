"""Names for files and directories that are being written, beside the place that they move to."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from logitlake.storage.errors import SettingsError

_MAX_NAME_BYTES = 255


def staged_beside(path: Path) -> Path:
    """A hidden path in the same directory, always the same one. It fits, however long the name of `path` is.

    Raises SettingsError for a path without a name, such as `/`.
    """
    if path.name in ("", ".."):
        raise SettingsError(f"output {str(path)!r}: expected the name of a file or directory; choose another path")
    name = f".{path.name}.tmp"
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.tmp"
    return path.with_name(name)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Give an OSError of the block the name of the file that was being written, if it has none, as on a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
