"""Runs a Python program that nobody has read, with limits, in a process group that is killed as a whole.

The program gets a folder of its own, and bounds on time, memory, size of a file, open files and processes. Where Linux'
namespaces can be used (`unshare`) it has no network and sees no other process. Where they can't, it may read the
environment of other processes, ours too, and a process that it starts in a session of its own outlives it. Everywhere
it can read, overwrite and delete what the user can, and the number of its files has no bound. This guards against
accidents and loops, not against an attacker. Run generated code as a user of its own, or in a container, if it may be
hostile.
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

_NAMESPACES = (
    ("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
    ("unshare", "--user", "--map-root-user", "--net"),
)
# Sets the limits and becomes the program: done in the child, because the parent has threads.
_START = """
import os, resource, sys
seconds, memory, file_bytes, processes, files = map(int, sys.argv[1:6])
for name, most in (
    ("RLIMIT_CPU", seconds), ("RLIMIT_AS", memory), ("RLIMIT_FSIZE", file_bytes), ("RLIMIT_NPROC", processes),
    ("RLIMIT_NOFILE", files), ("RLIMIT_CORE", 0),
):
    kind = getattr(resource, name, None)
    if kind is not None:
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):
            pass
os.execv(sys.executable, [sys.executable, "-I", "-B", sys.argv[6]])
"""
_FILE_BYTES = 16 << 20
_FILES = 64
_PROCESSES = 64
_SHOWN = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds on one program: wall-clock seconds, and bytes of address space."""

    seconds: float = 10.0
    memory_bytes: int = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Whether the program ran to its last line, and in a few words how it ended."""

    passed: bool
    reason: str


@lru_cache(maxsize=1)
def isolation() -> tuple[str, ...]:
    """The command that takes network and other processes away, or the network alone; empty where neither is allowed."""
    for prefix in _NAMESPACES:
        try:
            done = subprocess.run([*prefix, "true"], capture_output=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return prefix
    return ()


def is_isolated() -> bool:
    """Whether both can be taken away: network and other processes."""
    return isolation() == _NAMESPACES[0]


def run_program(source: str, limits: Limits) -> Outcome:
    """Run a program in a folder of its own. It passes if it reaches its last line: an early exit does not."""
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="logitlake-code-", ignore_cleanup_errors=True) as folder:
        program = Path(folder) / "program.py"
        # On a line of its own, whatever the program has printed last.
        last = f"print({chr(10) + token!r}, flush=True)"
        program.write_text(f"{source}\n\n{last}\n", encoding="utf-8", errors="replace")
        # Files without a name: the program may remove or replace whatever lies in its folder.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            code = _run(program, output, errors, limits)
            passed = code == 0 and _last_line(output) == token
            return Outcome(passed=passed, reason="passed" if passed else _reason(code, errors))


def _run(program: Path, output: IO[bytes], errors: IO[bytes], limits: Limits) -> int | None:
    """The exit code; None if the time was over."""
    numbers: Sequence[int] = (
        int(limits.seconds) + 1,
        *(limits.memory_bytes, _FILE_BYTES, _PROCESSES, _FILES),
    )
    command = [*isolation(), sys.executable, "-I", "-B", "-c", _START, *map(str, numbers), str(program)]
    process = subprocess.Popen(
        command,
        cwd=program.parent,
        env=_environment(program.parent),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
    )
    try:
        return process.wait(limits.seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _kill_group(process)


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of ours: it may hold keys."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Also what the program has started and left behind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(file: IO[bytes]) -> str:
    """Reads the end only, at a position of its own: the program shares the file's."""
    size = os.fstat(file.fileno()).st_size
    end = os.pread(file.fileno(), _SHOWN, max(0, size - _SHOWN))
    lines = end.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _reason(code: int | None, errors: IO[bytes]) -> str:
    if code is None:
        return "time limit"
    if code == 0:
        return "ended before its last line"
    return f"exit code {code}: {_last_line(errors)}"[:_SHOWN].rstrip(": ")
