"""A screen of sections, each with a title and named values or a short table.

As a table, ids are cut and numbers have units; JSON and CSV are complete.
"""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from rich.table import Table
from rich.text import Text

from logitlake.flows.terminal.output import Format, Row, console, print_record, readable, say
from logitlake.flows.terminal.quantities import named_text

Sections = Mapping[str, Row | Sequence[Row]]


_ID_LENGTH = 12


_OTHER_NAMES = {"seconds": "took", "commit_number": "commit"}


def print_screen(sections: Sections, form: Format) -> None:
    """JSON is one object with a key per section; CSV has a line per value; a table section without rows is left out."""
    if form is Format.JSON:
        print_record(dict(sections), form)
    elif form is Format.CSV:
        _write_csv(sections)
    else:
        for number, (title, content) in enumerate(sections.items()):
            if not content:
                continue
            if number:
                console().print()
            console().print(Text(title.replace("_", " "), style="bold"))
            if isinstance(content, Mapping):
                console().print(_named(content))
            else:
                print_list(content)


def short(name: str, value: Any) -> str:
    """A value as short text, by its name: ids cut, numbers with units, lists as their items."""
    if isinstance(value, list):
        return ", ".join(short(name.removesuffix("s"), item) for item in value)
    if isinstance(value, str) and name.endswith("_id") and len(value) == 32:
        return value[:_ID_LENGTH]
    if isinstance(value, str) and name == "doc_id" and len(value) == 64:
        return value[: 32 + _ID_LENGTH]  # a trace's id begins with that of its prompt
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return named_text(name, value) or readable(value)


def heading(name: str) -> str:
    """The heading for a name: `n_tokens` is `tokens`, `recipe_id` is `recipe`."""
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    plain = name.removeprefix("n_").removesuffix("_id").replace("_per_second", "/s").replace("_per_", "/")
    return plain.replace("_", " ")


def _named(record: Row) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in record.items():
        if value is not None:
            table.add_row(heading(name), named_text(name, value) or readable(value))
    return table


def table_of(rows: Sequence[Row]) -> Table:
    """A table of rows; text may be broken over lines; ids, times and numbers not."""
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 2), header_style="dim")
    for name in rows[0]:
        text = is_text(name, rows)
        justify = "right" if any(_is_number(row[name]) for row in rows) else "left"
        table.add_column(heading(name), justify=justify, overflow="fold", no_wrap=not text)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(short(name, value) for name, value in row.items()))
    return table


def is_text(name: str, rows: Sequence[Row]) -> bool:
    """Whether the values of a column may be broken over lines."""
    if name.endswith(("_id", "_at")):
        return False
    return any(isinstance(row[name], str | list) for row in rows)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _write_csv(sections: Sections) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["section", "row", "name", "value"])
    for title, content in sections.items():
        rows = [content] if isinstance(content, Mapping) else content
        for number, row in enumerate(rows):
            for name, value in row.items():
                text = json.dumps(value, default=str) if isinstance(value, list | tuple | dict) else value
                writer.writerow([title, number, name, text])


# Columns to drop first if the terminal is narrow; after these, the last column.
_LEAST = (
    *("metrics", "directory", "unit_id", "content_hash", "ended_at", "parent_id", "row_set_id", "recipe_id"),
    *("recipe_ids", "last_seen", "seconds", "n_sequences", "created_at"),
)


_FEWEST = 3


_BETWEEN = 2


# Minimum width of a text column.
_TEXT = 28


def print_list(rows: Sequence[Row]) -> None:
    """Rows as a table that fits the terminal. Columns without a value are left out; other formats have them all."""
    screen = console()
    names, dropped = what_fits(rows, screen.width)
    screen.print(table_of([{name: row[name] for name in names} for row in rows]))
    if dropped:
        dropped = [heading(name) for name in dropped]
        say(f"columns that do not fit: {', '.join(dropped)}; use a wider window or --format json")


def what_fits(rows: Sequence[Row], width: int) -> tuple[list[str], list[str]]:
    """The columns that fit into `width` characters, and the dropped ones. The first column always stays."""
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    dropped: list[str] = []
    while len(names) > _FEWEST and _width(rows, names) > width:
        gone = next((name for name in _LEAST if name in names[1:]), names[-1])
        names.remove(gone)
        dropped.append(gone)
    return names, dropped


def _width(rows: Sequence[Row], names: Sequence[str]) -> int:
    return sum(_column(rows, name) for name in names) + _BETWEEN * (len(names) - 1)


def _column(rows: Sequence[Row], name: str) -> int:
    cells, title = max(len(short(name, row[name])) for row in rows), heading(name)
    if not is_text(name, rows):
        return max(cells, len(title))
    return max(min(cells, _TEXT), *map(len, title.split()))
