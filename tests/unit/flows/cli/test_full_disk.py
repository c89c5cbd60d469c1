"""A disk that is full: the true reason with the place, nothing half-written, and the same command completes later."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pytest

from logitlake.storage.connection.disk_errors import disk_problem, full_disk_named
from logitlake.storage.errors import LakeError, MismatchError

OLD_LAKE = Path(__file__).parents[3] / "golden" / "format-1" / "lake"

# In a name space of its own, which takes the mount with it: a lake on a small disk, filled up to LEAVE bytes before the
# command or as soon as a file appears that matches WHEN.
SCRIPT = """
set -e
mount -t tmpfs -o size=40m tmpfs "$DISK"
cp -r "$LAKE" "$DISK/lake"
# Without the files of a connection that another test may still hold: they would be room enough.
cd "$DISK/lake"
"$PYTHON" -c 'import sqlite3; sqlite3.connect("catalog.sqlite").execute("PRAGMA wal_checkpoint")'
cd - > /dev/null
[ "$1" != rebuild ] || rm "$DISK"/lake/catalog.sqlite*
fill() { head -c $(($(df --output=avail -B1 "$DISK" | tail -1) - LEAVE)) /dev/zero > "$DISK/fill"; }
if [ -z "$WHEN" ]; then fill; else (until compgen -G "$DISK/$WHEN" > /dev/null; do sleep .02; done; fill) & fi
call() { "$PYTHON" -c 'from logitlake.flows.cli.app import main; main()' "$@" --config "$CONFIG" --lake "$DISK/lake"; }
set +e
call "$@"
echo "code $?"
kill %1 2> /dev/null
wait
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
    done = _on_a_small_disk(tmp_path / "disk", filled.config.lake.path, filled.config_file, command, leave)
    assert "files lake \n" in done.stdout, "something half-written is left"


@pytest.mark.slow
@pytest.mark.parametrize("leave", [0, 16_384, 65_536])
def test_a_lake_of_an_older_format_is_brought_up_to_date_once_there_is_room(
    filled: Any, tmp_path: Path, leave: int
) -> None:
    _on_a_small_disk(tmp_path / "disk", OLD_LAKE, filled.config_file, "forget --where n_tokens>0", leave)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lake", "command", "when"),
    [
        pytest.param(OLD_LAKE, "maintain", "lake/prefect/prefect.db", id="server-starts"),
        pytest.param(None, "train -o {disk}/student", "lake/prefect/prefect.db-wal", id="server-runs"),
        pytest.param(None, "train -o {disk}/student", ".*/checkpoints/checkpoint-*", id="checkpoint"),
    ],
)
def test_a_disk_that_fills_up_during_a_run_is_named_and_the_run_goes_on_once_there_is_room(
    filled: Any, tmp_path: Path, lake: Path | None, command: str, when: str
) -> None:
    raw = orjson.loads(filled.config_file.read_bytes())
    raw["training"]["save_steps"] = 1
    config_file = tmp_path / "logitlake.yaml"
    config_file.write_bytes(orjson.dumps(raw))
    _on_a_small_disk(tmp_path / "disk", lake or filled.config.lake.path, config_file, command, 0, when)


def _on_a_small_disk(
    disk: Path, lake: Path, config_file: Path, command: str, leave: int, when: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a command while the disk is full, and again with room: one sentence with the place, then a whole lake."""
    disk.mkdir()
    variables = {
        "DISK": disk,
        "LAKE": lake,
        "CONFIG": config_file,
        "LEAVE": leave,
        "WHEN": when,
        "PYTHON": sys.executable,
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
    }
    call = ["unshare", "--map-root-user", "--mount", "bash", "-c", SCRIPT, "script", *command.format(disk=disk).split()]
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert "code 5" in done.stdout, done.stdout + done.stderr
    assert "bytes" in done.stderr and "free some space and run again" in done.stderr and str(disk) in done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "again 0" in done.stdout and "verify 0" in done.stdout, done.stdout
    return done


def test_an_unclear_error_is_a_full_disk_only_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unclear = duckdb.IOException("Failed to prepare query: disk I/O error")
    said = disk_problem(unclear, [tmp_path]) or ""
    assert "it is not full" in said and "dmesg" in said and "free some space" not in said
    monkeypatch.setattr("logitlake.storage.connection.disk_errors.free_bytes", lambda place: 4096)
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


def test_only_errors_of_a_full_disk_become_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_writer = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    for error in (torch_writer, ValueError("x"), MismatchError("y")):
        with pytest.raises(type(error)), full_disk_named(tmp_path):
            raise error
    monkeypatch.setattr("logitlake.storage.connection.disk_errors.free_bytes", lambda place: 0)
    with pytest.raises(LakeError, match=f"the disk is full: {tmp_path} has 0 bytes free"), full_disk_named(tmp_path):
        raise torch_writer
    for error in (ValueError("x"), MismatchError("y")):
        with pytest.raises(type(error)), full_disk_named(tmp_path):
            raise error
