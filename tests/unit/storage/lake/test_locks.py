"""Locks where the file system has none: refused in one sentence, and never replaced by a file that stays."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeBusyError, LakeError
from logitlake.storage.lake.locks import commit_lock, single_writer

NO_LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ESTALE, errno.ENOSYS]


@pytest.fixture
def location(tmp_path: Path) -> LakeLocation:
    location = LakeLocation.resolve(tmp_path / "lake")
    assert location.state_directory is not None
    location.state_directory.mkdir(parents=True)
    return location


@pytest.mark.parametrize("code", NO_LOCKS, ids=lambda code: errno.errorcode[code])
def test_a_file_system_without_locks_is_refused_by_name(
    location: LakeLocation, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    for lock in (commit_lock(location, 5.0), single_writer(location, "capture")):
        with pytest.raises(LakeError, match="could not be locked") as refused, lock:
            raise AssertionError("the lock was taken")
        assert not isinstance(refused.value, LakeBusyError), "nobody holds it: trying again can't help"
        assert os.strerror(code) in str(refused.value)


def test_a_lock_that_is_held_is_busy_and_free_afterwards(location: LakeLocation) -> None:
    with single_writer(location, "capture"):
        with pytest.raises(LakeBusyError, match="another capture is running"), single_writer(location, "capture"):
            raise AssertionError("the lock was taken twice")
        with single_writer(location, "redistill"):
            pass
    with single_writer(location, "capture"):
        pass


def test_a_message_never_names_a_process_that_could_not_write_its_number(location: LakeLocation) -> None:
    with single_writer(location, "capture"):
        (location.state_directory / "capture.holder").write_bytes(b"")
        with pytest.raises(LakeBusyError, match="an unknown process"), single_writer(location, "capture"):
            raise AssertionError("the lock was taken twice")
