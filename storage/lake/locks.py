"""Locks of an embedded lake: one for commits, one for each task that must not run twice at once."""

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeBusyError, LakeError

log = logging.getLogger(__name__)

_REPORT_SECONDS = 60.0
# What flock answers where there are no locks: a network file system without its lock service, or a user-space one.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.ESTALE}


@contextmanager
def commit_lock(location: LakeLocation, timeout: float) -> Iterator[None]:
    """Hold the commit lock of an embedded catalog; a server needs none."""
    if location.catalog_file is None:
        yield
        return
    lock = _file_lock(Path(f"{location.catalog_file}.lock"))
    if not _acquired(lock, timeout):
        raise LakeBusyError(
            f"the commit lock {lock.lock_file} was not free within {timeout:g} s: another process is committing; "
            "try again, or raise lake.lock_timeout_seconds"
        )
    try:
        yield
    finally:
        lock.release()


@contextmanager
def single_writer(location: LakeLocation, task: str, *, patience: float = 0.0) -> Iterator[None]:
    """Raise LakeBusyError if `task` (such as "capture") still runs on an embedded lake after `patience` seconds.

    While it waits, it logs every minute which process it waits for.
    """
    if location.state_directory is None:
        yield
        return
    location.state_directory.mkdir(parents=True, exist_ok=True)
    lock = _file_lock(location.state_directory / f"{task}.lock")
    holder = location.state_directory / f"{task}.holder"
    _wait(lock, task, holder, patience)
    try:
        with suppress(OSError):  # only for the messages of others
            holder.unlink(missing_ok=True)  # on a full disk the number of an earlier process would stay
            holder.write_text(f"{os.getpid()} {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def _wait(lock: filelock.BaseFileLock, task: str, holder: Path, patience: float) -> None:
    """Acquire the lock, or raise LakeBusyError after `patience` seconds."""
    began = time.monotonic()
    while not _acquired(lock, max(0.0, min(_REPORT_SECONDS, patience - (time.monotonic() - began)))):
        waited = time.monotonic() - began
        held = f"{lock.lock_file} is held by {_holder(holder)}"
        if waited >= patience:
            raise LakeBusyError(f"another {task} is running on this lake: {held}; wait for it, or stop it")
        log.warning("waiting for another %s of this lake, %.0f s of %.0f s: %s", task, waited, patience, held)


def _file_lock(path: Path) -> filelock.BaseFileLock:
    """No substitute where flock is missing: a lock that is a mere file would stay after a kill."""
    return filelock.FileLock(path, fallback_to_soft=False)


def _acquired(lock: filelock.BaseFileLock, timeout: float) -> bool:
    """Whether the lock was free within `timeout` seconds. Raises LakeError where the file system has no locks."""
    try:
        lock.acquire(timeout=timeout)
    except filelock.Timeout:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise LakeError(
            f"{lock.lock_file}: the file could not be locked ({error.strerror}); a lake needs a file system with file "
            "locks (flock): put it on a local disk, mount the network file system with locks, or use a catalog on "
            "PostgreSQL"
        ) from error
    return True


def _holder(path: Path) -> str:
    """The process that holds the lock, and the command that stops it."""
    try:
        process, _, machine = path.read_text(encoding="utf-8")[:200].partition(" ")
    except (OSError, UnicodeDecodeError):
        process, machine = "", ""
    if not (process.isdecimal() and machine):
        return f"an unknown process (`fuser {path.with_suffix('.lock')}` shows it)"
    return f"process {process} on {machine} (`kill {process}` stops it)"
