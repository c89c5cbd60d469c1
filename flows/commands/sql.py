"""`logitlake sql`: one read-only question to the lake."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.options import ConfigFile, Debug, LakePath, OutputFormat, Overrides, location_of, settings
from flows.output import Format, print_rows
from storage.errors import QueryError
from storage.query import query as ask


def sql(
    query: Annotated[
        str | None, typer.Argument(help="One SELECT over the views of the lake; `-` reads it from standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Read the query from a file.", show_default=False)] = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Ask the lake one question in SQL. It can only read.

    The views: sequences, positions, heads, tails, targets, documents, sources, recipes, runs, commits, row_sets,
    students, lineage, rejects, vocabulary, forgotten. `logitlake sql "DESCRIBE positions"` lists the columns of one.
    """
    config = settings(config_file, overrides, {"lake.path": lake})
    text = _text(query, file)
    rows = ask(location_of(config), text)
    print_rows(rows, form)


def _text(query: str | None, file: Path | None) -> str:
    if (query is None) == (file is None):
        raise QueryError("expected one query: as the argument, `-` for standard input, or --file FILE")
    if file is not None:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise QueryError(f"query file {file}: can't be read ({error})") from None
    assert query is not None
    return sys.stdin.read() if query == "-" else query
