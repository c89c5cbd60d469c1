"""Locks of an embedded lake: one for commits, one for each task that must not run twice at once."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from logitlake.storage.errors import LakeBusyError, LakeError
from logitlake.storage.lake.location import LakeLocation

# What flock answers where there are no locks: a network file system without its lock service, or a user-space one.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.ESTALE}


@contextmanager
def commit_lock(location: LakeLocation, timeout: float) -> Iterator[None]:
    """Hold the commit lock of an embedded catalog; a server needs none."""
    if location.catalog_file is None:
        yield
        return
    path = Path(f"{location.catalog_file}.lock")
    busy = (
        f"the commit lock {path} was not free within {timeout:g} s: another process is committing; "
        "try again, or raise lake.lock_timeout_seconds"
    )
    with _held(path, timeout, busy):
        yield


@contextmanager
def single_writer(location: LakeLocation, task: str, *, patience: float = 0.0) -> Iterator[None]:
    """Raise LakeBusyError if `task` (such as "capture") still runs on an embedded lake after `patience` seconds."""
    if location.state_directory is None:
        yield
        return
    location.state_directory.mkdir(parents=True, exist_ok=True)
    path = location.state_directory / f"{task}.lock"
    with _held(path, patience, f"another {task} is running on this lake (it holds {path}): wait for it, or stop it"):
        yield


@contextmanager
def _held(path: Path, timeout: float, busy: str) -> Iterator[None]:
    """Hold the lock of a file. Raises LakeBusyError with the message `busy`, LakeError where there are no locks.

    No substitute where flock is missing: a lock that is a mere file would stay after a kill.
    """
    lock = filelock.FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout)
    except filelock.Timeout:
        raise LakeBusyError(busy) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise LakeError(
            f"{path}: the file could not be locked ({error.strerror}); a lake needs a file system with file locks "
            "(flock): put it on a local disk, mount the network file system with locks, or use a catalog on PostgreSQL"
        ) from error
    try:
        yield
    finally:
        lock.release()
