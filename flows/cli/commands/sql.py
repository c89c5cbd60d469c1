"""`logitlake sql`: read-only questions to the lake, one or a whole conversation."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from logitlake.flows.cli.options import ConfigFile, Debug, LakePath, OutputFormat, Overrides
from logitlake.flows.settings import location_of, read_query, settings
from logitlake.flows.terminal.output import Format, print_rows, say
from logitlake.storage.errors import QueryError
from logitlake.storage.sql.client_setup import client_lines
from logitlake.storage.sql.session import ReadSession, write_parquet


def sql(
    query: Annotated[
        str | None, typer.Argument(help="One SELECT over the views of the lake; `-` reads it from standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Read the query from a file.", show_default=False)] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the result to this Parquet file, however large.", show_default=False
        ),
    ] = None,
    as_of: Annotated[
        int | None,
        typer.Option("--as-of", metavar="COMMIT", help="The lake as it was at this commit number.", show_default=False),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0.001, help="Stop a query after so many seconds.", show_default=False),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option("--memory-limit", help="What DuckDB may use, such as 2GB; more goes to disk.", show_default=False),
    ] = None,
    init: Annotated[
        bool, typer.Option("--init", help="Print the lines that let any other DuckDB client see the lake.")
    ] = False,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Ask the lake in SQL. It can only read. Without a query, on a terminal: a prompt with history and completion.

    `FROM dictionary` explains every view and column, and docs/sql.md has questions with their answers.
    """
    location = location_of(settings(config_file, overrides, {"lake.path": lake}))
    if init:
        print("\n".join(client_lines(location)))
        return
    text = _text(query, file)
    with ReadSession(location, as_of=as_of, memory_limit=memory_limit) as session:
        if session.forgotten_since:
            say(f"{session.forgotten_since:,} documents were forgotten since commit {as_of}: they are missing here")
        if text is None:
            # Imported here: a single question needs no prompt.
            from logitlake.flows.cli.sql_prompt import converse

            converse(session, form, timeout=timeout)
        elif output is not None:
            say(f"{write_parquet(session, text, output, timeout=timeout):,} rows in {output}")
        else:
            print_rows(session.ask(text, timeout=timeout), form)


def _text(query: str | None, file: Path | None) -> str | None:
    """The query that was given; None for a person at a terminal, who will be asked."""
    if query is not None and file is not None:
        raise QueryError("expected one query: as the argument, or --file FILE")
    if file is not None:
        return read_query(file)
    if query is None and sys.stdin.isatty():
        return None
    text = sys.stdin.read() if query in (None, "-") else query
    if not text.strip():
        raise QueryError("expected one query, found nothing: as the argument, on standard input, or --file FILE")
    return text
