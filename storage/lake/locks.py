"""Locks of an embedded lake: one for commits, one for each task that must not run twice at once."""

from collections.abc import Iterator
from contextlib import contextmanager

import filelock

from logitlake.storage.errors import LakeBusyError
from logitlake.storage.lake.location import LakeLocation


@contextmanager
def commit_lock(location: LakeLocation, timeout: float) -> Iterator[None]:
    """Hold the commit lock of an embedded catalog; a server needs none."""
    if location.catalog_file is None:
        yield
        return
    lock = filelock.FileLock(f"{location.catalog_file}.lock")
    try:
        with lock.acquire(timeout=timeout):
            yield
    except filelock.Timeout:
        raise LakeBusyError(
            f"the commit lock {lock.lock_file} was not free within {timeout:g} s: another process is committing; "
            "try again, or raise lake.lock_timeout_seconds"
        ) from None


@contextmanager
def single_writer(location: LakeLocation, task: str, *, patience: float = 0.0) -> Iterator[None]:
    """Raise LakeBusyError if `task` (such as "capture") still runs on an embedded lake after `patience` seconds."""
    if location.state_directory is None:
        yield
        return
    location.state_directory.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(location.state_directory / f"{task}.lock")
    try:
        with lock.acquire(timeout=patience):
            yield
    except filelock.Timeout:
        raise LakeBusyError(
            f"another {task} is running on this lake (it holds {lock.lock_file}): wait for it, or stop it"
        ) from None
