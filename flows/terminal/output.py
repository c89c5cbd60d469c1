"""Results on standard output: as a table for a person, as JSON or CSV for a script. Everything else goes to stderr."""

import csv
import json
import logging
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from logitlake.flows.terminal.labels import label
from logitlake.flows.terminal.visible import visible
from logitlake.storage.json_text import finite
from logitlake.storage.redaction import without_secrets

_ROWS_FOR_A_PERSON = 500
_CELL_FOR_A_PERSON = 300
_LONGEST_WORD = 40
# Blanks between two columns.
_BETWEEN = 3
_WIDE_ENOUGH_TO_PIPE = 100_000
# A path or an id that is broken over lines can't be copied.
_WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False, "drop_whitespace": True}

Row = Mapping[str, Any]


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class _MessageHandler(logging.Handler):
    """Prints log messages without time, level and logger name."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


# The logger that Prefect sends to its server too (PREFECT_LOGGING_EXTRA_LOGGERS).
_LOGGER = logging.getLogger("logitlake")


@contextmanager
def printed_messages() -> Iterator[None]:
    """For the time of the block, print our log messages (INFO and above) on stderr."""
    handler, level, propagate = _MessageHandler(), _LOGGER.level, _LOGGER.propagate
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    # Prefect prints the messages of the root logger too.
    _LOGGER.propagate = False
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)
        _LOGGER.propagate = propagate


def messages_are_printed() -> bool:
    """Whether the command line is running, rather than a program that calls the flows."""
    return any(isinstance(handler, _MessageHandler) for handler in _LOGGER.handlers)


def say(message: str) -> None:
    """Print a message on stderr, where it does not mix with results.

    Escape sequences are shown, not executed; secrets are hidden.
    """
    text = visible(without_secrets(message))
    if sys.stderr.isatty():
        width = max(shutil.get_terminal_size().columns - 1, 20)
        lines = [textwrap.fill(line, width, **_WHOLE_WORDS) for line in text.split("\n")]
        text = "\n".join(lines)
    print(text, file=sys.stderr, flush=True)


def print_rows(
    rows: Sequence[Row] | pa.Table,
    form: Format,
    *,
    title: str = "",
    columns: Sequence[str] = (),
    as_in_sql: bool = False,
) -> None:
    """Many rows. JSON is a list of objects, CSV has a header; a table ends after 500 rows, with a message.

    `columns` are the headings for the case of no rows at all. A table rounds floats to four digits; JSON and CSV have
    the shortest text that stands for the same number. `as_in_sql`: headings of a table are the names of the columns,
    and new lines and tabs in text are shown as \\n and \\t.
    """
    if isinstance(rows, pa.Table):
        rows = _with_short_floats(rows.rename_columns(_unique(rows.column_names)))
    records: Sequence[Row] = rows.to_pylist() if isinstance(rows, pa.Table) else rows
    names = list(rows.column_names if isinstance(rows, pa.Table) else records[0] if records else columns)
    if form is Format.JSON:
        _write_json([dict(row) for row in records])
    elif form is Format.CSV:
        _write_csv(names, ([row[name] for name in names] for row in records))
    else:
        shown = records[:_ROWS_FOR_A_PERSON]
        if as_in_sql:
            shown = [{name: _on_one_line(value) for name, value in row.items()} for row in shown]
        _write_table(names, shown, title, exact_names=as_in_sql)
        if len(records) > _ROWS_FOR_A_PERSON:
            say(f"{len(records) - _ROWS_FOR_A_PERSON:,} more rows; --format csv or json prints all")


def _with_short_floats(rows: pa.Table) -> pa.Table:
    """Columns of 32-bit floats as 64-bit floats with the same digits: 0.1, not 0.10000000149011612."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_float32(field.type):
            digits = rows.column(place).cast(pa.string())
            rows = rows.set_column(place, field.name, digits.cast(pa.float64()))
    return rows


def _on_one_line(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return value.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t")


def _unique(names: Sequence[str]) -> list[str]:
    """Unique names: repeated names get a number, as in DuckDB."""
    taken: set[str] = set()
    result = []
    for name in names:
        unique, number = name, 0
        while unique in taken or (number and unique in names):
            number += 1
            unique = f"{name}_{number}"
        taken.add(unique)
        result.append(unique)
    return result


def print_record(record: Row, form: Format, *, title: str = "", exact_names: bool = False) -> None:
    """One record. JSON is one object; CSV and table have a row per value.

    In a table, names are words unless `exact_names`.
    """
    if form is Format.JSON:
        _write_json(dict(record))
    elif form is Format.CSV:
        _write_csv(["name", "value"], ([name, value] for name, value in record.items()))
    else:
        table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in record.items():
            table.add_row(name if exact_names else label(name), readable(value))
        console().print(table)


def readable(value: Any) -> str:
    """A value as text for people: thousands separated, floats short, times to the second."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        value = _plain(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value or 0.0:.4g}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list | tuple | dict):
        return visible(json.dumps(value, default=_plain, ensure_ascii=False))
    return visible(str(value))


def _write_json(value: Any) -> None:
    json.dump(finite(value), sys.stdout, default=_plain, ensure_ascii=False, indent=2, allow_nan=False)
    print()


def _write_csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(value) for value in row])


def _write_table(names: Sequence[str], rows: Sequence[Row], title: str, *, exact_names: bool) -> None:
    screen = console()
    headings = {name: name if exact_names else name.replace("_", " ") for name in names}
    least = dict.fromkeys(names, 0)
    if screen.is_terminal:
        rows = [{name: _cut(readable(row[name]), row[name]) for name in names} for row in rows]
        least = {name: _least_width(headings[name], [row[name] for row in rows]) for name in names}
        if sum(least.values()) + _BETWEEN * len(names) > screen.width:
            _write_records(names, rows, title, exact_names=exact_names)
            return
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        numeric = any(isinstance(row[name], int | float) for row in rows)
        justify: Any = "right" if numeric else "left"
        table.add_column(headings[name], justify=justify, overflow="fold", min_width=least[name] or None)
    for row in rows:
        table.add_row(*(readable(row[name]) for name in names))
    screen.print(table)


def _write_records(names: Sequence[str], rows: Sequence[Row], title: str, *, exact_names: bool) -> None:
    """Each row as a list of named values, if the columns do not fit side by side."""
    for number, row in enumerate(rows, start=1):
        record, heading = {name: row[name] for name in names}, f"{title} row {number:,}".strip()
        print_record(record, Format.TABLE, title=heading, exact_names=exact_names)


def _least_width(heading: str, values: Sequence[Any]) -> int:
    """Width of a column in which no word is broken: a number, an id or a path is one. A very long one is broken."""
    words = [word for value in values for word in readable(value).split()]
    return min(max(map(len, [*words, *heading.split()]), default=1), _LONGEST_WORD)


def _cut(text: str, value: Any) -> Any:
    """The beginning of a value that would fill the screen; numbers stay numbers."""
    if len(text) > _CELL_FOR_A_PERSON:
        return f"{text[:_CELL_FOR_A_PERSON]} … ({len(text):,} characters; all of them with --format json)"
    return value


def console() -> Console:
    """Standard output. To a pipe nothing is wrapped or coloured."""
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else _WIDE_ENOUGH_TO_PIPE)


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, default=_plain, ensure_ascii=False)
    return value.isoformat() if isinstance(value, date) else value


def _plain(value: Any) -> Any:
    """Values that JSON lacks: times as ISO text, DuckDB's huge sums as integers, others as text."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.hex() if isinstance(value, bytes) else str(value)
