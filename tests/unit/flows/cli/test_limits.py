"""No room to write: one sentence, an exit code, and nothing left behind."""

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from logitlake.flows.cli.app import _message_and_code
from logitlake.flows.settings import location_of
from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.errors import OutOfMemoryError, QueryError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.session import ReadSession
from logitlake.storage.verification.inspection import inspect

NO_FILES = "IO Error: Cannot open file: Too many open files"

# Exports with a limit on the size of a file (`ulimit -f`), which is set when the rows are read: SQLite needs 32 kB
# of its own for that.
SCRIPT = """
import resource, sys
from logitlake.flows.cli.app import main
from logitlake.storage.row_sets import export

def fetch(*given):
    rows = read(*given)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return rows

limit, read = int(sys.argv[1]), export.fetch
export.fetch = fetch
sys.argv = ["logitlake", "export", *sys.argv[2:]]
main()
"""


@pytest.mark.parametrize("limit", [0, 1_000])
def test_an_export_without_room_says_so_and_leaves_nothing(filled: Any, tmp_path: Path, limit: int) -> None:
    call = [sys.executable, "-c", SCRIPT, limit, tmp_path / "dataset", "--config", filled.config_file]
    done = subprocess.run([*map(str, call)], capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "there is no room to write in" in done.stderr and "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_low_soft_limit_of_open_files_is_raised() -> None:
    script = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512))
from logitlake.flows.cli.surroundings import allow_open_files
allow_open_files()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(512, 512)"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("_duckdb.so: failed to map segment from shared object"),
        RuntimeError("Resource temporarily unavailable"),
        duckdb.OutOfMemoryException("Out of Memory Error: no room\n\nPossible solutions:\n* Reduce threads"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_an_error_of_too_little_memory_says_so(error: Exception) -> None:
    message, code = _message_and_code(error)
    assert message.startswith("out of memory (") and "give the process more" in message and code == 1
    assert "\n" not in message


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files", "f"), duckdb.IOException(NO_FILES)])
def test_too_few_open_files_are_named_with_the_command_that_allows_more(error: Exception) -> None:
    message, code = _message_and_code(error)
    assert message.startswith("too many open files (the limit of this process is ") and "ulimit -n 4096" in message
    assert code == 1


@pytest.mark.parametrize(
    ("mebibytes", "command", "what"),
    [(700, "report", "a command"), (1_200, "verify", "a command"), (8_192, "report", "the plotting library")],
)
def test_a_low_limit_of_address_space_is_refused_in_one_sentence(
    filled: Any, tmp_path: Path, mebibytes: int, command: str, what: str
) -> None:
    page = ["--output", str(tmp_path / "page.html")] if command == "report" else []
    limited = ["bash", "-c", f'ulimit -v {mebibytes * 1024} && exec "$@"', "limited"]
    program = [sys.executable, "-c", "from logitlake.flows.cli.app import main; main()", command, *page]
    done = subprocess.run(
        [*limited, *program, "--config", str(filled.config_file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert f"out of address space: {what} needs " in done.stderr and f"is {mebibytes:,} MiB" in done.stderr
    assert "ulimit -v unlimited" in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", ["1MB", "3MB", "5MB"])
def test_a_lack_of_memory_is_never_taken_for_damage(filled: Any, limit: str) -> None:
    with Lake.open(location_of(filled.config)) as lake:
        lake.connection.execute("SET memory_limit = ?", [limit])
        with pytest.raises(OutOfMemoryError, match="give the process more") as caught:
            inspect(lake)
    assert "\n" not in str(caught.value)


def test_a_damaged_length_that_no_machine_has_memory_for_is_damage() -> None:
    for text in ("malloc of size 4611686018427387904 failed", "failed to allocate data of size 15.9 EiB (1 MiB used)"):
        raise_for_lack_of_memory(pa.ArrowMemoryError(text))
        raise_for_lack_of_memory(duckdb.OutOfMemoryException(f"Out of Memory Error: {text}"))
    with pytest.raises(OutOfMemoryError):
        raise_for_lack_of_memory(pa.ArrowMemoryError("malloc of size 1048576 failed"))


def test_a_query_without_memory_says_so_in_one_sentence(filled: Any) -> None:
    with (
        ReadSession(location_of(filled.config), memory_limit="5MB") as session,
        pytest.raises(QueryError, match="query failed: out of memory") as caught,
    ):
        session.ask("SELECT range % 1000003 AS k, count(*) FROM range(100000000) GROUP BY k ORDER BY k")
    assert "\n" not in str(caught.value)
