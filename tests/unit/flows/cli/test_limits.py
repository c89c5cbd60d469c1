"""No room to write: one sentence, an exit code, and nothing left behind."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.cli.app import _message_and_code

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
from logitlake.flows.cli.app import _allow_open_files
_allow_open_files()
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
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_an_error_of_too_little_memory_says_so(error: Exception) -> None:
    message, code = _message_and_code(error)
    assert message.startswith("out of memory (") and "give the process more" in message and code == 1
