"""The `logitlake` program: its commands and its exit codes.

A command is imported when it is called: help and completion start at once, and commands that run no flow start without
torch and Prefect.
"""

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

from logitlake.flows.cli.command_table import COMMANDS, entries
from logitlake.flows.cli.lazy_imports import keep_out
from logitlake.flows.cli.signals import signals_stop_queries
from logitlake.flows.cli.surroundings import allow_open_files, arrange_home, open_files, require_memory
from logitlake.flows.runtime.termination import TerminatedError, stop_behind
from logitlake.storage.errors import LakeError, LogitlakeError, SettingsError
from logitlake.storage.redaction import without_secrets

_COMPLETE = "_LOGITLAKE_COMPLETE"

INTERRUPTED = 130
TERMINATED = 143

EXIT_CODES = """Exit codes: 0 done, or nothing to do; 1 unexpected error; 2 wrong settings, arguments or query; 3
corpus; 4 mismatch of tokenizer, vocabulary or recipe; 5 lake; 6 the lake is busy, try again; 7 stored bytes are
damaged; 130 interrupted, 143 terminated (committed work is kept)."""

_STYLE: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

# typer brings its own copy of click and names only some of its errors.
_UsageError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if issubclass(kind, Exception) and kind.__name__ == "ClickException"
)


# What the loader of libraries, threads and torch say without memory, each in an error of another kind.
_NO_MEMORY = (
    *("failed to map segment", "Resource temporarily unavailable"),
    *("annot allocate memory", "can't start new thread", "can't allocate memory", "Out of Memory Error"),
)
_NO_FILES = "Too many open files"
_NO_TEMPORARY_FOLDER = "No usable temporary directory"
# Errors that mean a wrong path, not a defect of the program.
_PATH_ERRORS = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EROFS, errno.EEXIST}
_PATH_ERRORS |= {errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}


class _Commands(TyperGroup):
    """Turns every error into one message on stderr and its exit code."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _Loaded()  # type: ignore[assignment]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(len(entry.name) for entry in entries())
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(entry.name.ljust(width), entry.summary) for entry in section])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        named = [_Completion(e.name, e.summary) for e in entries() if e.name.startswith(incomplete)]
        # The options of the program itself; TyperGroup's own would import every command.
        return [*named, *super(TyperGroup, self).shell_complete(ctx, incomplete)]

    def invoke(self, ctx: Any) -> Any:
        # Imported here: help and completion print no results.
        from logitlake.flows.terminal.output import printed_messages

        try:
            with printed_messages():
                require_memory()
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except _UsageError as error:
            error.message = _usage(without_secrets(error.message))  # type: ignore[attr-defined]
            raise
        except BaseException as error:
            stop = stop_behind(error)
            if stop is not None:
                _say("interrupted: committed work is kept; run the same command again to continue")
                raise typer.Exit(TERMINATED if isinstance(stop, TerminatedError) else INTERRUPTED) from None
            if not isinstance(error, Exception):
                raise
            message, code = _message_and_code(error)
            raise _failed(ctx, error, message, code) from None


def _usage(message: str) -> str:
    """The message of typer about a word that is none of several, with the nearest one."""
    message = message.replace("Value error, ", "")
    given, separator, choices = message.partition(" is not one of ")
    near = get_close_matches(given.strip("'"), re.findall(r"'([^']+)'", choices), n=1) if separator else []
    return f"{message} Did you mean {near[0]!r}?" if near else message


def _message_and_code(error: Exception) -> tuple[str, int]:
    """What to say of an error that ended a command, and the exit code."""
    if isinstance(error, LogitlakeError):
        return str(error), error.exit_code
    if _NO_FILES in str(error):
        return (
            f"too many open files (the limit of this process is {open_files():,}): raise the limit (`ulimit -n 4096`, "
            "or systemd's LimitNOFILE) and run again"
        ), 1
    if (problem := _disk_problem(error)) is not None:
        return problem, LakeError.exit_code
    if isinstance(error, FileNotFoundError) and _NO_TEMPORARY_FOLDER in str(error):
        message = f"{error.strerror}: free some space there, or set TMPDIR to a folder that may be written"
        return message, LakeError.exit_code
    if isinstance(error, OSError) and error.filename is not None and error.errno in _PATH_ERRORS:
        message = f"{error.filename}: {error.strerror}; choose another path, or correct this one"
        return message, SettingsError.exit_code
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY):
        # DuckDB adds several lines of advice.
        detail = str(error).strip().splitlines()[0] if str(error).strip() else "no detail"
        return f"out of memory ({detail}): free some, or give the process more, and run again", 1
    message = f"unexpected error: {type(error).__name__}: {error}; --debug prints the traceback: please report it"
    return message, LogitlakeError.exit_code


def _disk_problem(error: Exception) -> str | None:
    # Imported here: help and completion need no lake.
    from logitlake.storage.connection.disk_errors import disk_problem

    # `tempfile.gettempdir` raises an error where nothing can be written.
    return disk_problem(error, [Path.cwd(), Path(os.environ.get("TMPDIR") or "/tmp")])


class _Loaded(Mapping[str, Any]):
    """The commands by name, each imported when it is asked for."""

    def __init__(self) -> None:
        self._entries = {entry.name: entry for entry in entries()}
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._entries[name].load(_STYLE)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class _Completion(NamedTuple):
    """One completion for the shell; click's own class moves between versions of typer."""

    value: str
    help: str
    type: str = "plain"


def _failed(ctx: Any, error: Exception, message: str, code: int) -> typer.Exit:
    if (ctx.find_root().obj or {}).get("debug"):
        print(without_secrets("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    _say(f"logitlake: {message}")
    return typer.Exit(code)


def _say(message: str) -> None:
    # Imported here: help and completion print no results.
    from logitlake.flows.terminal.output import say

    say(message)


app = typer.Typer(
    cls=_Commands,
    name="logitlake",
    help=f"""Run the teacher once, train students from its cached targets, and query them in SQL.\n\n{EXIT_CODES}""",
    epilog="`logitlake COMMAND --help` has examples. `logitlake init DIRECTORY` starts a project.",
    no_args_is_help=True,
    **_STYLE,
)


@app.callback()
def _program(
    version: bool = typer.Option(
        False,
        "--version",
        is_eager=True,
        help="Print the version.",
        callback=lambda given: _print_version(given),
    ),
) -> None:
    return


def _print_version(given: bool) -> None:
    if given:
        from importlib.metadata import version

        print(f"logitlake {version('logitlake')}")
        raise typer.Exit


def main() -> None:
    """Entry point of the installed command."""
    light = {entry.name for entry in entries() if entry.light}
    if _COMPLETE in os.environ or light.intersection(sys.argv[1:2]):
        keep_out("pandas")
    # A path is printed as the bytes that it has; what the terminal's encoding lacks is printed as an escape.
    if sys.stdout is not None:  # it is None where the caller has closed it
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")  # type: ignore[union-attr]
    arrange_home()
    allow_open_files()
    try:
        with signals_stop_queries():
            app(prog_name="logitlake")
    except KeyboardInterrupt:  # before a command began, or after it ended
        sys.exit(INTERRUPTED)
