"""`logitlake sql`: read-only questions to the lake, one or a whole conversation."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from logitlake.flows.cli.options import ResultOptions, option
from logitlake.flows.settings import location_of, read_query
from logitlake.flows.terminal.output import print_rows, say
from logitlake.storage.errors import LakeError, QueryError
from logitlake.storage.sql.client_setup import client_lines
from logitlake.storage.sql.session import ReadSession, write_parquet


@dataclass(frozen=True, kw_only=True)
class SqlOptions(ResultOptions):
    """The query, and how it is run."""

    query: Annotated[
        str | None, typer.Argument(help="One SELECT over the views of the lake; `-` reads it from standard input.")
    ] = None
    file: Annotated[Path | None, option("--file", help="Read the query from a file.")] = None
    output: Annotated[
        Path | None, option("--output", "-o", help="Write the result to this Parquet file, of any size.")
    ] = None
    as_of: Annotated[
        int | None, option("--as-of", metavar="COMMIT", help="Query the lake as it was at this commit number.")
    ] = None
    timeout: Annotated[float | None, option("--timeout", min=0.001, help="Stop the query after this many seconds.")] = (
        None
    )
    memory_limit: Annotated[
        str | None, option("--memory-limit", help="Memory for DuckDB, such as 2GB; the rest goes to disk.")
    ] = None
    init: Annotated[bool, typer.Option("--init", help="Print the SQL that opens the lake in any DuckDB client.")] = (
        False
    )


def sql(options: SqlOptions) -> None:
    """Query the lake in SQL, read-only. At a terminal and without a query: a prompt with history and completion.

    `FROM dictionary` explains every view and column; docs/sql.md has questions with their answers.
    """
    location = location_of(options.config())
    if options.init:
        print("\n".join(client_lines(location)))
        return
    text, timeout = _text(options.query, options.file), options.timeout
    with ReadSession(location, as_of=options.as_of, memory_limit=options.memory_limit) as session:
        if session.forgotten_since:
            say(f"{session.forgotten_since:,} documents were forgotten since commit {options.as_of} and are missing")
        _warn_of_damage(session)
        if text is None:
            # Imported here: a single question needs no prompt.
            from logitlake.flows.cli.sql_prompt import converse

            converse(session, options.form, timeout=timeout)
        elif options.output is not None:
            say(f"{write_parquet(session, text, options.output, timeout=timeout):,} rows in {options.output}")
        else:
            print_rows(session.ask(text, timeout=timeout), options.form, as_in_sql=True)


def _warn_of_damage(session: ReadSession) -> None:
    try:
        if n_damaged := session.n_damaged():
            say(
                f"{n_damaged:,} documents or files are known to be damaged, so answers may be wrong: FROM damage names "
                "them, `logitlake repair` mends them"
            )
    except LakeError as error:
        say(f"known damage can't be told ({error}): run `logitlake verify`")


def _text(query: str | None, file: Path | None) -> str | None:
    """The query; None at a terminal without one, where the prompt starts."""
    if query is not None and file is not None:
        raise QueryError("expected one query, found two: give the argument or --file, not both")
    if file is not None:
        return read_query(file)
    if query is None and sys.stdin.isatty():
        return None
    text = _standard_input() if query is None or query == "-" else query
    if not text.strip():
        raise QueryError("expected a query, found none: give it as the argument, by --file FILE, or on standard input")
    return text


def _standard_input() -> str:
    try:
        text = sys.stdin.read()
        # In some locales Python reads wrong bytes as surrogates.
        text.encode()
        return text
    except UnicodeError as error:
        raise QueryError(f"query on standard input: expected UTF-8 ({error}); convert it first") from None
