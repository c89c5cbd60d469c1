"""What the page is built of. A chart always comes with a table that says the same in numbers.

`recipes` and `corpus` of a row say which filters it stands under: none of them, and it is always shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The cells of a table's row, and what the page's filters judge it by."""

    cells: Sequence[Any]
    recipes: tuple[str, ...] = ()
    corpus: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headings. `caption` is read out first; a column of numbers is set to the right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]

    def numeric(self, column: int) -> bool:
        cells = [row.cells[column] for row in self.rows if row.cells[column] is not None]
        return bool(cells) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A Vega-Lite specification, what a reader who can't see it is told, and its numbers."""

    key: str
    title: str
    spec: dict[str, Any]
    description: str
    table: Table
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number that stands for much, and what it is."""

    value: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the page. `template` draws what charts and tables can't say, from `more`."""

    key: str
    title: str
    lead: str
    figures: Sequence[Figure] = ()
    blocks: Sequence[Chart | Table] = ()
    template: str | None = None
    more: dict[str, Any] = field(default_factory=dict)
