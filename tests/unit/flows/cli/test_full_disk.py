"""A disk that is full: the true reason with the place, nothing half-written, and the same command completes later."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from logitlake.storage.lake.disk_errors import disk_problem

# In a name space of its own, which takes the mount with it: a lake on a small disk, filled up to LEAVE bytes.
SCRIPT = """
set -e
mount -t tmpfs -o size=20m tmpfs "$DISK"
cp -r "$LAKE" "$DISK/lake"
# Without the files of a connection that another test may still hold: they would be room enough.
cd "$DISK/lake"
"$PYTHON" -c 'import sqlite3; sqlite3.connect("catalog.sqlite").execute("PRAGMA wal_checkpoint")'
cd - > /dev/null
[ "$1" != rebuild ] || rm "$DISK"/lake/catalog.sqlite*
free=$(($(df --output=avail -B1 "$DISK" | tail -1) - LEAVE))
head -c "$free" /dev/zero > "$DISK/fill"
call() { "$PYTHON" -c 'from logitlake.flows.cli.app import main; main()' "$@" --config "$CONFIG" --lake "$DISK/lake"; }
set +e
call "$@"
echo "code $?"
rm "$DISK/fill"
echo "files $(ls -A "$DISK" | tr '\\n' ' ')"
call "$@" > /dev/null 2>&1
echo "again $?"
call verify > /dev/null 2>&1
echo "verify $?"
"""


@pytest.mark.parametrize(
    ("command", "leave"),
    [
        pytest.param("verify", 0, id="open"),
        pytest.param("forget --where n_tokens>0", 65_536, id="tombstone", marks=pytest.mark.slow),
        pytest.param("rebuild", 65_536, id="rebuild", marks=pytest.mark.slow),
        pytest.param("report --output {disk}/page.html", 65_536, id="report", marks=pytest.mark.slow),
        pytest.param("export {disk}/dataset", 45_056, id="export", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_named_with_its_place_and_the_command_completes_once_there_is_room(
    filled: Any, tmp_path: Path, command: str, leave: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    variables = {
        "DISK": disk,
        "LAKE": filled.config.lake.path,
        "CONFIG": filled.config_file,
        "LEAVE": leave,
        "PYTHON": sys.executable,
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
    }
    call = ["unshare", "--map-root-user", "--mount", "bash", "-c", SCRIPT, "script", *command.format(disk=disk).split()]
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert "code 5" in done.stdout, done.stdout + done.stderr
    assert "bytes" in done.stderr and "free some space and run again" in done.stderr and str(disk) in done.stderr
    assert "Traceback" not in done.stderr
    assert "files lake \n" in done.stdout, "something half-written is left"
    assert "again 0" in done.stdout and "verify 0" in done.stdout, done.stdout


def test_an_unclear_error_is_a_full_disk_only_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unclear = duckdb.IOException("Failed to prepare query: disk I/O error")
    said = disk_problem(unclear, [tmp_path]) or ""
    assert "it is not full" in said and "dmesg" in said and "free some space" not in said
    monkeypatch.setattr("logitlake.storage.lake.disk_errors.free_bytes", lambda place: 4096)
    assert f"the disk is full: {tmp_path} has 4,096 bytes free" in (disk_problem(unclear, [tmp_path]) or "")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/gone/away/file"),
        OSError(errno.EFBIG, "File too large"),
        duckdb.IOException("database or disk is full"),
    ],
)
def test_an_error_without_room_names_a_place_and_what_to_do(error: Exception, tmp_path: Path) -> None:
    said = disk_problem(error, [tmp_path / "not" / "there"]) or ""
    assert "there is no room to write in" in said and "bytes free): free some space and run again" in said


def test_another_error_is_not_one_of_the_disk(tmp_path: Path) -> None:
    for error in (ValueError("x"), PermissionError(errno.EACCES, "Permission denied", "f"), duckdb.Error("syntax")):
        assert disk_problem(error, [tmp_path]) is None
