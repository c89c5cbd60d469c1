"""The `logitlake` command: what people type, and the exit codes that scripts trust.

A command imports what it needs when it is called: those that run no flow start without torch and without Prefect.
"""

import errno
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from flows.commands.capture import capture
from flows.commands.demo import demo
from flows.commands.evaluate import evaluate
from flows.commands.export import export
from flows.commands.forget import forget, retire
from flows.commands.maintain import maintain
from flows.commands.plan import plan
from flows.commands.promote import promote, rollback
from flows.commands.rebuild import rebuild
from flows.commands.redistill import redistill
from flows.commands.serve import serve
from flows.commands.show import show
from flows.commands.sql import sql
from flows.commands.train import train
from flows.commands.verify import verify
from flows.orchestration import TerminatedError
from flows.output import say
from storage.errors import LakeError, LogitlakeError

INTERRUPTED = 130
TERMINATED = 143

EXIT_CODES = """Exit codes: 0 done, also when there was nothing to do; 1 unexpected error; 2 settings, arguments or
query; 3 corpus; 4 mismatch of tokenizer, vocabulary or recipe; 5 lake; 6 the lake is busy, try again; 7 stored bytes
are damaged; 130 interrupted, 143 terminated (what was committed is kept)."""

# typer brings its own copy of click and names only some of its errors.
_UsageError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if issubclass(kind, Exception) and kind.__name__ == "ClickException"
)


class _Commands(TyperGroup):
    """Turns every error into one message on stderr and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError, _UsageError):
            raise
        except (KeyboardInterrupt, TerminatedError) as stop:
            say("interrupted: everything that was committed is kept; run the same command again to go on")
            raise typer.Exit(TERMINATED if isinstance(stop, TerminatedError) else INTERRUPTED) from None
        except LogitlakeError as error:
            raise _failed(ctx, error, str(error), error.exit_code) from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            message = (
                f"the disk is full ({error.filename or error}): make room and run again; what was committed is kept"
            )
            raise _failed(ctx, error, message, LakeError.exit_code) from None


def _failed(ctx: Any, error: Exception, message: str, code: int) -> typer.Exit:
    if (ctx.find_root().obj or {}).get("debug"):
        traceback.print_exception(error)
    say(f"logitlake: {message}")
    return typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    name="logitlake",
    help=f"""Run the teacher once; train students from what it thought, and ask it in SQL.\n\n{EXIT_CODES}""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = (
    *(plan, capture, train, evaluate, redistill, serve, promote, rollback),
    *(sql, show, export, verify, maintain, forget, retire, rebuild, demo),
)
for command in COMMANDS:
    app.command()(command)


@app.callback()
def _program(
    version: bool = typer.Option(False, "--version", is_eager=True, callback=lambda given: _print_version(given)),
) -> None:
    return


def _print_version(given: bool) -> None:
    if given:
        from importlib.metadata import version

        print(f"logitlake {version('logitlake')}")
        raise typer.Exit


def main() -> None:
    """Entry point of the installed command."""
    app(prog_name="logitlake")
