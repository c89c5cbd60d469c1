"""A commit whose answer was lost on the way from the server: its files, and whether it has landed.

DuckLake removes the files that it wrote when a COMMIT fails. If only the server's answer was lost, the commit has
landed and the catalog names them. So they are held in memory until the answer is there, and put back if there is none.
If the commit has not landed, nothing names them, and upkeep sweeps them. DuckLake does not remove shards.

A commit on a server carries an id in the message of its snapshot, so that it can be found there.
"""

import contextlib
import logging
import secrets
import time
from pathlib import Path

import duckdb

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import connect, list_paths, put_bytes
from logitlake.storage.errors import LakeError
from logitlake.storage.schema.tables import NAME, TABLES

log = logging.getLogger(__name__)

# DuckLake names a file after its time: a UUID of version 7, whose first 8 hex digits count units of 2^16 milliseconds.
_MILLISECONDS_PER_PREFIX = 1 << 16


def hold_files(location: LakeLocation, began: float) -> dict[str, bytes]:
    """The content of every file that DuckLake has written since `began`, by path. Other writers' files may be among
    them. In a bucket that is one listing by prefix for each table, whatever the lake holds."""
    contents = {}
    if location.data_directory is not None:
        for name in TABLES:
            for path in (location.data_directory / "store" / name).glob("ducklake-*.parquet"):
                # A writer that was rolled back removes its files.
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime >= began:
                        contents[str(path)] = path.read_bytes()
        return contents
    patterns = [f"{location.data}store/{name}/{prefix}*" for name in TABLES for prefix in _prefixes(began, time.time())]
    with connect(location) as connection:
        listed = " UNION ALL ".join(["FROM glob(?)"] * len(patterns))
        for (path,) in connection.execute(listed, patterns).fetchall():
            with contextlib.suppress(duckdb.Error):
                row = connection.execute("SELECT content FROM read_blob(?)", [path]).fetchone()
                contents.update({path: bytes(row[0])} if row else {})
    return contents


def put_back(location: LakeLocation, files: dict[str, bytes]) -> None:
    """Write those of the files again that are gone. One that can't be written is logged, and the others are written."""
    for path, content in files.items():
        name = path.removeprefix(location.data)
        try:
            if not (Path(path).exists() if location.data_directory else list_paths(location, name)):
                put_bytes(location, name, content)
        except (LakeError, OSError, duckdb.Error) as error:
            log.error(
                "%s could not be written again (%s): run `logitlake verify`, which tells if it is missed", path, error
            )


def mark(connection: duckdb.DuckDBPyConnection) -> str:
    """Give the open transaction an id, and return it."""
    commit_id = secrets.token_hex(16)
    connection.execute(f"CALL {NAME}.set_commit_message('logitlake', ?)", [commit_id])
    return commit_id


def has_landed(connection: duckdb.DuckDBPyConnection, commit_id: str) -> bool:
    """Whether a commit without an answer is in the catalog; if it is not, it never will be.

    The server may still be at work on it. Its snapshot has the number that any other commit would take now: so another
    commit is made first, which waits for the one under way or takes its number. Raises duckdb.Error while the server
    is away.
    """
    try:
        connection.execute("UPDATE store.guard SET commit_number = commit_number")
    except duckdb.Error as error:
        # Then somebody else's commit, or the one in question, took the number.
        if "conflict" not in str(error).lower():
            raise
    found = connection.execute(f"SELECT 1 FROM ducklake_snapshots('{NAME}') WHERE commit_message = ?", [commit_id])
    return found.fetchone() is not None


def _prefixes(began: float, now: float) -> list[str]:
    """The beginnings of the names of files written between two times."""
    first, last = (int(moment * 1000) // _MILLISECONDS_PER_PREFIX for moment in (began, now))
    return [f"ducklake-{number:08x}" for number in range(first, last + 1)]
