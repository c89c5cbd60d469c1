"""Results of a benchmark, written as a table on the terminal, a PNG and a JSON file."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under their headings; numbers are shown with three significant digits."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Reach:
    """A goal: the figure `key` is at least, or at most, `bound`, or `bound` times the figure `over`."""

    key: str
    kind: str
    bound: float
    over: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("at least", "at most"):
            raise ValueError(f"kind of reach: expected 'at least' or 'at most', found {self.kind!r}")

    def is_met(self, figures: Mapping[str, float]) -> bool:
        """Whether the figure reaches the bound."""
        figure = figures[self.key]
        bound = self.bound if self.over is None else self.bound * figures[self.over]
        return figure >= bound if self.kind == "at least" else figure <= bound

    @property
    def text(self) -> str:
        """As people read it."""
        return f"{self.kind} {self.bound:,g}" + ("" if self.over is None else f" x {self.over}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`figures` are the keys of the last line; `plot` draws on an empty figure; `notes` go under the tables."""

    figures: Mapping[str, float]
    tables: Sequence[Table]
    plot: Callable[[Figure], None]
    notes: Sequence[str] = ()


def show(console: Console, title: str, summary: Summary, reach: Sequence[Reach]) -> None:
    """Print the tables, then the figures with their goals."""
    rows: list[list[Any]] = []
    for key, value in summary.figures.items():
        goals = [goal for goal in reach if goal.key == key]
        rows += [[key, value, goal.text, "yes" if goal.is_met(summary.figures) else "no"] for goal in goals]
        rows += [] if goals else [[key, value, "", ""]]
    for table in [*summary.tables, Table(title, ["figure", "measured", "goal", "reached"], rows)]:
        drawn = RichTable(title=table.title, title_justify="left")
        for number, column in enumerate(table.columns):
            drawn.add_column(column, justify="left" if number == 0 else "right")
        for row in table.rows:
            drawn.add_row(*(cell_text(cell) for cell in row))
        console.print(drawn)
    for note in summary.notes:
        console.print(note)


def write(
    name: str,
    summary: Summary,
    reach: Sequence[Reach],
    record: Mapping[str, Any],
    *,
    quick: bool,
    directory: Path = RESULTS,
) -> None:
    """Write NAME.json and NAME.png; a quick run writes NAME.quick.json and NAME.quick.png, and replaces no full one."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{name}.quick" if quick else name
    content = {
        **record,
        "figures": dict(summary.figures),
        "reach": [
            {"key": goal.key, "kind": goal.kind, "bound": goal.bound, "over": goal.over}
            | {"met": goal.is_met(summary.figures)}
            for goal in reach
        ],
        "tables": [
            {"title": t.title, "columns": list(t.columns), "rows": [list(r) for r in t.rows]} for t in summary.tables
        ],
        "notes": list(summary.notes),
    }
    (directory / f"{stem}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    figure = Figure(figsize=(7, 4), layout="constrained")
    summary.plot(figure)
    # No software version inside, so that the same figures give the same file.
    figure.savefig(directory / f"{stem}.png", dpi=120, metadata={"Software": None})


def cell_text(cell: Any) -> str:
    """A cell as people read it: text as it is, large numbers whole with separators, small ones to three digits.

    Near 1, where a ratio says little by three, there are four.
    """
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return str(cell)
    if isinstance(cell, int) or abs(cell) >= 1000:
        return f"{cell:,.0f}"
    return f"{cell:.{4 if 0.9 < abs(cell) < 1.1 else 3}g}"
