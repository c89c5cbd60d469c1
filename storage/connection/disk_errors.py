"""What an error of DuckDB, SQLite or the system says about the disk, in words that name the place and the free bytes.

SQLite has one message, "disk I/O error", for a full disk and for a broken one: the free bytes tell which it is.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeError, LogitlakeError

# No room for the bytes: a full disk, a quota, the limit of a process (ulimit -f).
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SIGNS = ("No space left", "disk is full", "Disk quota exceeded", "File too large")
# SQLite, the system, and torch while it writes a file.
_UNCLEAR = ("disk I/O error", "Input/output error", "inline_container.cc", "PytorchStreamWriter")
# SQLite's journal needs 32 kB and its index some more: with less than this an unclear error is that of a full disk.
_FEW_BYTES = 1 << 20
ADVICE = "free some space and run again; committed work is kept"


def disk_problem(error: BaseException, folders: Iterable[Path | None]) -> str | None:
    """The reason and the advice if the error is one of the disk; None for another error.

    `folders` are where the bytes may have been meant to go; the fullest of their file systems is named.
    """
    text = str(error)
    known = isinstance(error, OSError) and error.errno in NO_ROOM
    named = getattr(error, "filename", None)
    places = [Path(os.fsdecode(named)).parent] if isinstance(named, str | bytes) else [f for f in folders if f]
    free, place = min(((free_bytes(place), str(place)) for place in places), default=(None, ""))
    if known or any(sign in text for sign in _SIGNS):
        where = f" in {place} ({free:,} bytes free)" if free is not None else ""
        return f"there is no room to write{where}: {ADVICE}. The system says: {_short(text)}"
    if not any(sign in text for sign in _UNCLEAR):
        return None
    if free is not None and free < _FEW_BYTES:
        return f"the disk is full: {place} has {free:,} bytes free: {ADVICE}. The system says: {_short(text)}"
    names = ", ".join(map(str, places)) or "the lake"
    return (
        f"the disk could not be read or written, and it is not full ({_short(text)}): check the disk or network mount "
        f"of {names} (`dmesg`), then run again"
    )


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Errors inside become LakeError if there is no room to write in `folder`; others stay as they are."""
    try:
        yield
    except LogitlakeError:
        raise
    except Exception as error:
        if free_bytes(folder) >= _FEW_BYTES or not (problem := disk_problem(error, [folder])):
            raise
        raise LakeError(problem) from error


def lake_folders(location: LakeLocation) -> list[Path | None]:
    """The folders that a lake writes to, where they are on this machine."""
    return [location.state_directory, location.data_directory]


def free_bytes(place: Path) -> int:
    """Bytes that this user may still write; of a folder that is not there, those of the one above it."""
    while not place.exists() and place != place.parent:
        place = place.parent
    system = os.statvfs(place)
    # Without a free entry for a file (inode) there is no room for another file, whatever is free.
    return system.f_bavail * system.f_frsize if system.f_favail or not system.f_files else 0


def _short(text: str) -> str:
    return " ".join(text.split())
