"""Flush what a directory holds to the disk."""

import os
from pathlib import Path


def sync_directory(directory: Path, *, files: bool = True) -> None:
    """Flush all files below a directory: a power loss after the next rename must not leave empty files.

    Without `files`, only the names in the directory itself.
    """
    for path in [*(directory.rglob("*") if files else ()), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
