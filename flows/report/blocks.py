"""The parts of the page. Every chart has a table with the same numbers.

The page's filters compare with `recipes` and `corpus` of a row; a row with neither is always shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The cells of a table's row, and the values that the page's filters compare with."""

    cells: Sequence[Any]
    recipes: tuple[str, ...] = ()
    corpus: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headings. Screen readers read `caption` first; columns of numbers are aligned right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]

    def numeric(self, column: int) -> bool:
        cells = [row.cells[column] for row in self.rows if row.cells[column] is not None]
        return bool(cells) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A Vega-Lite specification, its description for screen readers, and its numbers as a table."""

    key: str
    title: str
    spec: dict[str, Any]
    description: str
    table: Table
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One important number with its label."""

    value: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the page. `template` renders `more`, which is neither chart nor table."""

    key: str
    title: str
    lead: str
    figures: Sequence[Figure] = ()
    blocks: Sequence[Chart | Table] = ()
    template: str | None = None
    more: dict[str, Any] = field(default_factory=dict)
