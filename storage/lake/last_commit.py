"""The note `last-commit.json` beside the data: the number of the last commit, so that an older catalog is noticed.

It is written after the catalog has committed. So a catalog that is up to date never has a smaller number than the note,
wherever a process was killed, and one that has was put back from an older backup, or lost its last commits. The check
at every opening reads this one small file and lists nothing.
"""

import contextlib
import json
import logging
import os
import secrets
from pathlib import Path

import duckdb

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import STAGING_SUFFIX, list_paths
from logitlake.storage.errors import LakeError
from logitlake.storage.identity import digest

log = logging.getLogger(__name__)

NOTE = "last-commit.json"


def noted_commit(connection: duckdb.DuckDBPyConnection, location: LakeLocation) -> int:
    """The number in the note; 0 if there is none (no commit yet, or an older logitlake), or if the note is damaged.

    Raises LakeError if it is there and can't be read: then nothing tells whether the catalog is older.
    """
    try:
        content = _read(connection, location)
    except (OSError, duckdb.Error) as error:
        raise LakeError(f"{location.data}{NOTE} can't be read ({error}): check the storage, then run again") from error
    try:
        note = json.loads(content)
        number = int(note["commit_number"])
        intact = note["checksum"] == _checksum(number)
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return number if intact else 0


def note_commit(connection: duckdb.DuckDBPyConnection, location: LakeLocation, number: int) -> None:
    """Write the number of a commit that has landed. A failure is logged only: the commit is safe, and the next one
    writes the note again."""
    content = json.dumps({"checksum": _checksum(number), "commit_number": number})
    try:
        _write(connection, location, content)
    except (OSError, duckdb.Error) as error:
        log.warning(
            "%s%s could not be written (%s): until the next commit, a catalog that lacks this one is not noticed",
            *(location.data, NOTE, error),
        )


def _checksum(number: int) -> str:
    """A damaged digit must not turn a good catalog into an older one."""
    return digest(b"last commit", str(number).encode())


def _read(connection: duckdb.DuckDBPyConnection, location: LakeLocation) -> bytes:
    try:
        if location.data_directory:
            return (location.data_directory / NOTE).read_bytes()
        row = connection.execute("SELECT content FROM read_blob(?)", [location.data + NOTE]).fetchone()
    except FileNotFoundError:
        return b""
    except duckdb.Error:
        if not list_paths(location, NOTE):
            return b""
        raise
    return bytes(row[0]) if row else b""


def _write(connection: duckdb.DuckDBPyConnection, location: LakeLocation, content: str) -> None:
    """Whole or not at all, but not synced: after a power loss an older note is as good as none."""
    if location.data_directory is None:
        url = f"{location.data}{NOTE}".replace("'", "''")
        connection.execute(f"COPY (SELECT '{content}'::BLOB) TO '{url}' (FORMAT blob)")
        return
    path = location.data_directory / NOTE
    staged = Path(f"{path}.{os.getpid()}{secrets.randbelow(10**9):09}{STAGING_SUFFIX}")
    try:
        staged.write_text(content, encoding="utf-8")
        staged.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        raise
