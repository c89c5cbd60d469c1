"""Old snapshots, and files that nothing names any more: removed after a grace in which running readers are safe."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from storage.creation import NAME
from storage.failpoints import reach
from storage.lake import Lake
from storage.object_store import STAGING_SUFFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep removed, or would remove."""

    snapshots: int
    expired_files: tuple[str, ...]
    orphaned_files: tuple[str, ...]
    staged_files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """How much there is of what upkeep keeps small. `n_small_files` are the files of all tables but `sequences`."""

    n_shards: int
    n_bytes: int
    n_small_files: int
    n_snapshots: int


def holdings(lake: Lake) -> Holdings:
    """Count files and snapshots, from the catalog alone."""
    found = lake.row(
        f"""
        SELECT
            coalesce(sum(file_count) FILTER (table_name = 'sequences'), 0)::BIGINT AS n_shards,
            coalesce(sum(file_size_bytes) FILTER (table_name = 'sequences'), 0)::BIGINT AS n_bytes,
            coalesce(sum(file_count) FILTER (table_name <> 'sequences'), 0)::BIGINT AS n_small_files,
            (SELECT count(*) FROM ducklake_snapshots('{NAME}')) AS n_snapshots
        FROM ducklake_table_info('{NAME}')
        """
    )
    return Holdings(**found)


def sweep(lake: Lake, *, grace: timedelta, forget_at_once: bool = False, dry_run: bool = False) -> Swept:
    """Expire snapshots older than `grace`, and remove the files that only they named, orphans and unfinished writes.

    `forget_at_once` gives expired files no grace, since some hold what must be forgotten: a query that is reading one
    of them at this moment fails, and works when it is asked again. Orphans keep theirs: a capture may be about to
    register one. The lock is held throughout: a file that an open transaction has just added is an orphan to everybody
    else.
    """
    before = datetime.now(UTC) - grace
    catalog_before = before if grace == timedelta(0) else _whole_days(lake, before)
    if forget_at_once:
        catalog_before = datetime.now(UTC)
    with lake.exclusive():
        snapshots = lake.sql(_call("ducklake_expire_snapshots", catalog_before, dry_run)).num_rows
        reach("snapshots-expired")
        expired = lake.sql(_call("ducklake_cleanup_old_files", catalog_before, dry_run))
        reach("files-removed")
        orphans = lake.sql(_call("ducklake_delete_orphaned_files", before, dry_run))
        staged = _staged(lake, before, dry_run)
    return Swept(
        snapshots=snapshots,
        expired_files=tuple(sorted(expired["path"].to_pylist())),
        orphaned_files=tuple(sorted(orphans["path"].to_pylist())),
        staged_files=staged,
    )


def _whole_days(lake: Lake, before: datetime) -> datetime:
    """The end of the day before, on a SQLite catalog: DuckLake 1.0 compares its times there as text, in which every
    moment of a day comes before any bound within that day. Files then live up to a day longer, never shorter."""
    if lake.location.catalog_file is None:
        return before
    return before.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(microseconds=1)


def _call(function: str, before: datetime, dry_run: bool) -> str:
    when = f"TIMESTAMPTZ '{before.isoformat(sep=' ')}'"
    return f"FROM {function}('{NAME}', older_than => {when}, dry_run => {str(dry_run).lower()})"


def _staged(lake: Lake, before: datetime, dry_run: bool) -> tuple[str, ...]:
    """Unfinished writes of processes that died. A bucket has none: an upload appears whole or not at all."""
    directory = lake.location.data_directory
    if directory is None:
        return ()
    # A clock set back must not make a write of this moment look old.
    horizon = min(before.timestamp(), time.time())
    found = sorted(path for path in directory.rglob(f"*{STAGING_SUFFIX}") if path.stat().st_mtime < horizon)
    if not dry_run:
        for path in found:
            path.unlink(missing_ok=True)
    return tuple(str(path) for path in found)
