"""Removal of old snapshots and of files that nothing names any more, after a grace for running readers."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from logitlake.storage.connection.object_store import STAGING_SUFFIX, is_staged
from logitlake.storage.errors import IntegrityError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Lake
from logitlake.storage.recovery.damaged_files import copy_aside
from logitlake.storage.redaction import without_secrets
from logitlake.storage.schema.tables import NAME
from logitlake.storage.verification.history import examine, refusal

# How long a writer may take between the first byte of a file and its registration.
_WRITERS_TIME = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep removed, or would remove. It leaves `foreign_files` alone: Parquet files that no lake wrote. Of the
    orphaned files, `damaged_files` have a copy in `damaged/`."""

    snapshots: int
    expired_files: tuple[str, ...]
    orphaned_files: tuple[str, ...]
    staged_files: tuple[str, ...]
    foreign_files: tuple[str, ...]
    damaged_files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """The numbers that upkeep keeps small. `n_small_files` are the files of all tables but `sequences`."""

    n_shards: int
    n_bytes: int
    n_small_files: int
    n_snapshots: int


def holdings(lake: Lake) -> Holdings:
    """Count files and snapshots, from the catalog alone."""
    counts = lake.row(
        f"""
        SELECT
            coalesce(sum(file_count) FILTER (table_name = 'sequences'), 0)::BIGINT AS n_shards,
            coalesce(sum(file_size_bytes) FILTER (table_name = 'sequences'), 0)::BIGINT AS n_bytes,
            coalesce(sum(file_count) FILTER (table_name <> 'sequences'), 0)::BIGINT AS n_small_files,
            (SELECT count(*) FROM ducklake_snapshots('{NAME}')) AS n_snapshots
        FROM ducklake_table_info('{NAME}')
        """
    )
    return Holdings(**counts)


def sweep(lake: Lake, *, grace: timedelta, forget_at_once: bool = False, dry_run: bool = False) -> Swept:
    """Expire snapshots older than `grace`, and remove the files that only they named, orphans and unfinished writes.

    `forget_at_once` gives expired files no grace, because some hold rows that must be forgotten: a query that is
    reading one of them at this moment fails, and works when it is run again. Orphans and unfinished writes stay for an
    hour at least: a capture may be about to register one. The lock is held while files are removed, because a file that
    an open transaction has just added looks like an orphan; what orphans hold is read before, because that may take
    longer than a capture waits for the lock. DuckLake treats every Parquet file under the data path as its own:
    while there are foreign files, orphans stay.

    Raises IntegrityError, and removes nothing, if an orphan was committed in another catalog's history
    (`logitlake.storage.verification.history`), or if the catalog plans the removal of a file outside the lake. An
    orphan that is damaged and not replaced is copied to `damaged/` first.
    """
    now = datetime.now(UTC)
    before = now - grace
    at_once = forget_at_once or grace == timedelta(0)
    catalog_before = now if at_once else _whole_days(lake, before)
    orphans_before = min(before, now - _WRITERS_TIME)
    examined, damaged = _examined_orphans(lake, orphans_before, examined=frozenset())
    with lake.exclusive():
        orphans, more_damaged = _examined_orphans(lake, orphans_before, examined=examined)
        damaged |= more_damaged
        foreign = tuple(sorted(path for path in orphans if not path.startswith(f"{lake.location.data}store/")))
        if not foreign and not dry_run:
            # First of all: if a copy can't be made, nothing is removed.
            for path in damaged:
                copy_aside(lake.location, path)
        snapshots = lake.sql(_call("ducklake_expire_snapshots", _older_than(catalog_before), dry_run)).num_rows
        reach("snapshots-expired")
        # What has expired just now is younger than any time that was taken before.
        which = "cleanup_all => true" if at_once else _older_than(catalog_before)
        expired = _paths(lake, "ducklake_cleanup_old_files", which, dry_run=True)
        _refuse_outside(lake, expired)
        if not dry_run:
            expired = _paths(lake, "ducklake_cleanup_old_files", which, dry_run)
        reach("files-removed")
        removed = tuple(sorted(orphans))
        if not foreign and not dry_run:
            removed = _paths(lake, "ducklake_delete_orphaned_files", _older_than(orphans_before), dry_run)
        staged = _staged(lake, orphans_before, dry_run)
    return Swept(
        snapshots=snapshots,
        expired_files=expired,
        orphaned_files=() if foreign else removed,
        staged_files=staged,
        foreign_files=foreign,
        damaged_files=() if foreign else tuple(sorted(damaged)),
    )


def _examined_orphans(
    lake: Lake, before: datetime, *, examined: frozenset[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """The orphans, and those of them that are damaged. Only files that are not in `examined` are read: old files do not
    change. Raises IntegrityError if one was committed in another catalog's history."""
    orphans = frozenset(_paths(lake, "ducklake_delete_orphaned_files", _older_than(before), dry_run=True))
    found = examine(lake, sorted(orphans - examined))
    if found.missing:
        raise IntegrityError(refusal(lake, found.missing))
    return orphans, frozenset(found.damaged)


def _refuse_outside(lake: Lake, paths: tuple[str, ...]) -> None:
    """Raises IntegrityError if a damaged or foreign catalog would have a file removed that is not of the lake."""
    store = f"{lake.location.data}store/"
    outside = [path for path in paths if not path.startswith(store) or ".." in path.split("/")]
    if outside:
        raise IntegrityError(
            f"the catalog {without_secrets(lake.location.catalog)} plans the removal of {outside[0]}, which does not "
            f"lie in {store}: it is damaged, or not this lake's. No file was removed. Restore it from a backup, or "
            "move it away and run `logitlake rebuild`"
        )


def _whole_days(lake: Lake, before: datetime) -> datetime:
    """The end of the day before, on a SQLite catalog: DuckLake 1.0 compares its times there as text, in which every
    moment of a day comes before any bound within that day. Files then live up to a day longer, never shorter."""
    if lake.location.catalog_file is None:
        return before
    return before.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(microseconds=1)


def _paths(lake: Lake, function: str, which: str, dry_run: bool) -> tuple[str, ...]:
    return tuple(sorted(lake.sql(_call(function, which, dry_run))["path"].to_pylist()))


def _call(function: str, which: str, dry_run: bool) -> str:
    return f"FROM {function}('{NAME}', {which}, dry_run => {str(dry_run).lower()})"


def _older_than(before: datetime) -> str:
    return f"older_than => TIMESTAMPTZ '{before.isoformat(sep=' ')}'"


def _staged(lake: Lake, before: datetime, dry_run: bool) -> tuple[str, ...]:
    """Unfinished writes of processes that died. A bucket has none: an upload appears whole or not at all."""
    directory = lake.location.data_directory
    if directory is None:
        return ()
    # A clock set back must not make a write of this moment look old.
    horizon = min(before.timestamp(), time.time())
    staged = (path for path in directory.rglob(f"*{STAGING_SUFFIX}") if is_staged(path.name))
    old = sorted(path for path in staged if _is_older(path, horizon))
    if not dry_run:
        for path in old:
            path.unlink(missing_ok=True)
    return tuple(str(path) for path in old)


def _is_older(path: Path, horizon: float) -> bool:
    """Whether a file was written before; false for one that its writer has renamed or removed meanwhile."""
    try:
        return path.stat().st_mtime < horizon
    except FileNotFoundError:
        return False
