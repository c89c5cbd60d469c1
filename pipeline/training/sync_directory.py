"""Flush what a directory holds to the disk."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Flush all files below a directory: a power loss after the next rename must not leave empty files."""
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
