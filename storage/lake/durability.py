"""Syncing of the files that DuckLake writes: it does not, but the catalog syncs the commit that names them.

After a power loss a committed catalog would name files that are empty. A bucket keeps an object once it is uploaded.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import sync_directory

# File systems take their times from a clock that ticks coarsely.
_SLACK_SECONDS = 2.0


def moment() -> float:
    """The time of now, for `sync_files_since`."""
    return time.time() - _SLACK_SECONDS


def sync_files_since(location: LakeLocation, began: float) -> None:
    """Sync every Parquet file under the data path that was written since `began`, and the folders that were changed.

    Looks only into folders that were changed since: a few dozen calls where there is nothing to do.
    """
    if location.data_directory is None:
        return
    for folder in _folders(location.data_directory):
        with suppress(FileNotFoundError):
            if folder.stat().st_mtime >= began:
                _sync_folder(folder, began)


def _folders(data: Path) -> Iterator[Path]:
    """The folders that a lake writes to: a table's, and those of its partitions."""
    yield from (data, data / "store")
    yield from (path for pattern in ("store/*/", "store/*/*/") for path in data.glob(pattern) if path.is_dir())


def _sync_folder(folder: Path, began: float) -> None:
    with os.scandir(folder) as entries:
        files = [Path(entry.path) for entry in entries if entry.name.endswith(".parquet")]
    for file in files:
        # A file of another writer may be removed at any moment: its transaction was rolled back.
        with suppress(FileNotFoundError):
            if file.stat().st_mtime >= began:
                _sync_file(file)
    sync_directory(folder)


def _sync_file(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
