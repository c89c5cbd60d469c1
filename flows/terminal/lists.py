"""Lists on a terminal: as many columns as fit with every id, time and number whole, and a word about the others."""

from collections.abc import Sequence

from logitlake.flows.terminal.output import Row, console, say
from logitlake.flows.terminal.screen import heading, is_text, short, table_of

# What a person misses least, the first of all first; after these the last column goes.
_LEAST = (
    *("metrics", "directory", "unit_id", "content_hash", "ended_at", "parent_id", "row_set_id", "recipe_id"),
    *("recipe_ids", "last_seen", "seconds", "n_sequences", "created_at"),
)
_FEWEST = 3
_BETWEEN = 2
# Text may be broken, but not into crumbs.
_TEXT = 28


def print_list(rows: Sequence[Row]) -> None:
    """Rows as a table that fits the terminal. Columns without a value are left out; other formats have them all."""
    screen = console()
    names, dropped = what_fits(rows, screen.width)
    screen.print(table_of([{name: row[name] for name in names} for row in rows]))
    if dropped:
        dropped = [heading(name) for name in dropped]
        say(f"left out for want of room: {', '.join(dropped)}; a wider window shows them, and --format json")


def what_fits(rows: Sequence[Row], width: int) -> tuple[list[str], list[str]]:
    """The columns to show in so many characters, in their order, and those that are dropped for it. The first stays."""
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
