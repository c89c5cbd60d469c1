"""`copy_lake`: a lake at another place, the same to the row, and made the same again by the next copy.

First the files, which never change; each is written whole or not at all, read again and compared. Then the catalog, in
one transaction: until then the destination holds no lake, or the one of the copy before. Killed anywhere, the next call
goes on. The note `copied.json` beside the data tells what was copied, so that a destination with commits of its own is
never overwritten.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow.parquet as pq
from pyarrow import ArrowException, BufferReader

from logitlake.storage.connection.attach import attach, set_time_zone
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import connect, list_paths, put_bytes, read_all, read_note, write_note
from logitlake.storage.connection.open_connections import signals_kept
from logitlake.storage.copying.catalog_tables import (
    CatalogFile,
    attach_source,
    attach_target,
    fingerprint,
    has_tables,
    remove_files,
    replace_target,
    stage,
    staged_files,
    target_files,
)
from logitlake.storage.errors import IntegrityError, LakeError, LakeMissingError, SettingsError
from logitlake.storage.failpoints import reach
from logitlake.storage.identity import digest
from logitlake.storage.lake.creation import COPIED
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.last_commit import note_commit
from logitlake.storage.lake.locks import commit_lock, single_writer
from logitlake.storage.lake.migration import LAKE_NOTES
from logitlake.storage.recovery.table_files import DELETES_SUFFIX
from logitlake.storage.redaction import without_secrets
from logitlake.storage.schema.sequences import complete_rows
from logitlake.storage.shards.writing import check_rows
from logitlake.storage.verification.verify import verify_tables

_NOTES = ("recipes/*.json", "tombstones/*.json", "students/*.json")
_SHARDS = "store/sequences/"
_LOCK_SECONDS = 60.0
# How long a writer may take between the first byte of a file and its registration.
_WRITERS_TIME = timedelta(hours=1)

OnFile = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What a copy brought, or would bring: files and bytes that the destination lacked, of all that the lake has.

    `n_removed`: files at the destination that neither its new catalog nor the one before names.
    """

    n_files: int
    n_bytes: int
    n_files_in_all: int
    n_bytes_in_all: int
    commit_number: int
    n_removed: int = 0


def copy_lake(
    source: LakeLocation,
    destination: LakeLocation,
    *,
    dry_run: bool = False,
    on_file: OnFile = lambda done, total: None,
) -> CopyReport:
    """Make the destination the same lake as the source is now. Raises LakeError if the destination holds another lake
    or commits of its own, and IntegrityError if a file is not what was committed; nothing has changed there then but
    files that no catalog names."""
    _check_places(source, destination)
    with Lake.open(source) as lake:
        if lake.n_missing_commits:
            raise IntegrityError(f"{lake.missing_history}. Nothing was copied")
        identity = digest(b"lake", json.dumps(lake.sql("FROM store.lake_settings ORDER BY name").to_pylist()).encode())
    with ExitStack() as stack:
        if not dry_run:
            for task in ("copy", "capture"):
                stack.enter_context(single_writer(destination, task))
        connection = stack.enter_context(_staged(source))
        files, state = staged_files(connection), fingerprint(connection, of_target=False)
        before = _state_at(destination, identity)
        present = {file.name: file.n_bytes for file in _files(destination)}
        missing = [file for file in files if present.get(file.name) != file.n_bytes]
        number = _commit_number(connection)
        if before and (copied := _read_commit_number(destination)) > number:
            raise LakeError(
                f"the copy at {destination.data} has more commits than the lake ({copied} against {number}): the lake "
                "was put back from a backup. Copy in the other direction, or name another destination"
            )
        report = CopyReport(
            n_files=len(missing),
            n_bytes=sum(file.n_bytes for file in missing),
            n_files_in_all=len(files),
            n_bytes_in_all=sum(file.n_bytes for file in files),
            commit_number=number,
        )
        if dry_run:
            return report
        write_note(destination, COPIED, {"lake": identity, "states": sorted({*filter(None, [before]), state})})
        arrival = stack.enter_context(connect(destination))
        for done, file in enumerate(missing, start=1):
            _copy_file(connection, source, arrival, destination, file)
            reach("file-copied")
            on_file(done, len(missing))
        forgotten = _copy_notes(source, destination)
        previous = _replace_catalog(connection, destination, before, _known_states(destination))
        reach("catalog-copied")
        removed = _finish(destination, identity, state, number, previous, at_once=forgotten or previous.has_deletes)
    return CopyReport(
        n_files=report.n_files,
        n_bytes=report.n_bytes,
        n_files_in_all=report.n_files_in_all,
        n_bytes_in_all=report.n_bytes_in_all,
        commit_number=number,
        n_removed=removed,
    )


def _finish(
    destination: LakeLocation, identity: str, state: str, number: int, previous: "_Previous", *, at_once: bool
) -> int:
    """Check the new copy, note it, and remove what no catalog names any more; returns how many files."""
    with Lake.open(destination) as lake:
        note_commit(lake.connection, destination, number)
        if problems := [check.problem for check in verify_tables(lake) if check.problem]:
            raise IntegrityError(f"the copy at {destination.data} differs from what was committed: {problems[0]}")
    write_note(destination, COPIED, {"lake": identity, "states": [state]})
    return _remove_unnamed(destination, previous.names, at_once=at_once)


def _remove_unnamed(destination: LakeLocation, previous: set[str], *, at_once: bool) -> int:
    """Remove files that the destination's catalog does not name, and that no writer has made within an hour.

    Those of the catalog before, `previous`, stay for running readers until the next copy, or leave at once: then they
    may hold what was forgotten.
    """
    with commit_lock(destination, _LOCK_SECONDS), _catalog_errors(destination):
        with connect(destination) as connection:
            attach_target(connection, destination)
            named = target_files(connection)
        oldest = datetime.now(UTC) - _WRITERS_TIME
        removed = [
            file.name
            for file in _files(destination)
            if file.name not in named and (at_once if file.name in previous else file.modified < oldest)
        ]
        remove_files(destination, removed)
    return len(removed)


def _check_places(source: LakeLocation, destination: LakeLocation) -> None:
    if source.catalog == destination.catalog or source.data == destination.data:
        raise SettingsError(
            f"the copy would have the catalog or the data path of the lake itself ({destination.data}): name another "
            "destination"
        )


@contextmanager
def _staged(source: LakeLocation) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the source's catalog as it is now, cut down to what is current."""
    with connect(source) as connection:
        set_time_zone(connection)
        with commit_lock(source, _LOCK_SECONDS), _catalog_errors(source), signals_kept(connection):
            attach_source(connection, source)
            stage(connection)
        yield connection


@contextmanager
def _catalog_errors(location: LakeLocation) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise LakeError(f"the catalog {without_secrets(location.catalog)} can't be copied: {error}") from error


def _commit_number(connection: duckdb.DuckDBPyConnection) -> int:
    """The number in the guard row, which DuckLake keeps in the catalog itself."""
    names = connection.execute(
        "SELECT d.table_name FROM staged.ducklake_inlined_data_tables AS d JOIN staged.ducklake_table AS t "
        "USING (table_id) WHERE t.table_name = 'guard'"
    ).fetchall()
    rows = [connection.execute(f"SELECT max(commit_number) FROM staged.{name}").fetchone() for (name,) in names]
    return max((int(row[0]) for row in rows if row and row[0] is not None), default=0)


def _read_commit_number(location: LakeLocation) -> int:
    with Lake.open(location) as lake:
        return lake.commit_number


def _known_states(destination: LakeLocation) -> set[str]:
    note = read_note(destination, COPIED)
    return set(note["states"]) if note else set()


def _state_at(destination: LakeLocation, identity: str) -> str:
    """The fingerprint of the copy that is there; empty if there is no lake yet. Raises LakeError for another lake."""
    note = read_note(destination, COPIED)
    if note and note["lake"] != identity:
        raise LakeError(f"{destination.data} holds a copy of another lake: name another destination")
    try:
        Lake.open(destination).close()
    except LakeMissingError:
        if not note and list_paths(destination, "store/**/*.parquet"):
            raise LakeError(
                f"{destination.data} holds files of a lake that is no copy of this one: name another destination"
            ) from None
        return ""
    with connect(destination) as connection:
        attach_target(connection, destination)
        state = fingerprint(connection, of_target=True)
    if not note or state not in note["states"]:
        raise LakeError(
            f"the lake at {destination.data} has commits of its own, or is no copy of this one: a copy would remove "
            "them. Name another destination"
        )
    return state


@dataclass(frozen=True, slots=True)
class _StoredFile:
    """A file under the data path."""

    name: str
    n_bytes: int
    modified: datetime


def _files(location: LakeLocation) -> list[_StoredFile]:
    """The files under store/."""
    paths = list_paths(location, "store/**/*.parquet") if _has_data(location) else []
    if not paths:
        return []
    with connect(location) as connection:
        query = "SELECT filename, size, epoch(last_modified) FROM read_blob(?)"
        rows = connection.execute(query, [paths]).fetchall()
    return [
        _StoredFile(path.removeprefix(location.data), size, datetime.fromtimestamp(seconds, UTC))
        for path, size, seconds in rows
    ]


def _has_data(location: LakeLocation) -> bool:
    return location.data_directory is None or location.data_directory.is_dir()


def _copy_file(
    departure: duckdb.DuckDBPyConnection,
    source: LakeLocation,
    arrival: duckdb.DuckDBPyConnection,
    destination: LakeLocation,
    file: CatalogFile,
) -> None:
    """Bring one file: its bytes as the catalog says, its rows as their hashes say, and the same bytes on arrival."""
    content = _read(departure, source.data + file.name)
    if len(content) != file.n_bytes:
        raise IntegrityError(
            f"{source.data}{file.name}: expected {file.n_bytes:,} bytes, found {len(content):,}: `logitlake verify` "
            "says what is damaged; if upkeep has just removed the file, copy again"
        )
    if file.name.startswith(_SHARDS) and not file.name.endswith(DELETES_SUFFIX):
        try:
            check_rows(complete_rows(pq.ParquetFile(BufferReader(content)).read()), source.data + file.name)
        except (ArrowException, OSError, ValueError) as error:
            raise IntegrityError(f"{source.data}{file.name} can't be read ({error}): run `logitlake verify`") from error
    put_bytes(destination, file.name, content)
    if hashlib.sha256(_read(arrival, destination.data + file.name)).digest() != hashlib.sha256(content).digest():
        raise IntegrityError(f"{destination.data}{file.name}: other bytes arrived than were sent: copy again")


def _read(connection: duckdb.DuckDBPyConnection, path: str) -> bytes:
    """The bytes of a file; none if it is not there."""
    try:
        row = connection.execute("SELECT content FROM read_blob(?)", [path]).fetchone()
    except duckdb.Error as error:
        raise LakeError(f"{path} can't be read: {error}. If upkeep has just removed it, copy again") from error
    return bytes(row[0]) if row else b""


def _copy_notes(source: LakeLocation, destination: LakeLocation) -> bool:
    """Bring the small files that a rebuild starts from; what says how to rebuild comes last. Returns whether there are
    tombstones that the destination lacked."""
    before = set(list_paths(destination, "tombstones/*.json"))
    for pattern in (*_NOTES, *LAKE_NOTES):
        present = {path.removeprefix(destination.data): text for path, text in _contents(destination, pattern)}
        for path, content in _contents(source, pattern):
            name = path.removeprefix(source.data)
            if present.get(name) != content:
                put_bytes(destination, name, content)
    return set(list_paths(destination, "tombstones/*.json")) != before


def _contents(location: LakeLocation, pattern: str) -> list[tuple[str, bytes]]:
    """The files that match a pattern; none is no error."""
    return list(read_all(location, pattern).items()) if list_paths(location, pattern) else []


@dataclass(frozen=True, slots=True)
class _Previous:
    """The files that the catalog of the copy before names, and whether some rows of them are deleted."""

    names: set[str]
    has_deletes: bool


def _replace_catalog(
    connection: duckdb.DuckDBPyConnection, destination: LakeLocation, before: str, known: set[str]
) -> _Previous:
    """The one step after which the destination is the new lake. Returns what it named until then."""
    for directory in (destination.state_directory, destination.data_directory):
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
    with commit_lock(destination, _LOCK_SECONDS), _catalog_errors(destination):
        # Makes DuckLake's own tables where there are none.
        attach(destination, read_only=False).close()
        attach_target(connection, destination)
        named = target_files(connection)
        expected = fingerprint(connection, of_target=True)
        if expected not in known if before else has_tables(connection):
            raise LakeError(f"the lake at {destination.data} was changed during the copy: nothing was overwritten")
        if not replace_target(connection, destination.data, expected):
            raise LakeError(f"the lake at {destination.data} was changed during the copy: nothing was overwritten")
    return _Previous(named, any(name.endswith(DELETES_SUFFIX) for name in named))
