"""The reference of the SQL views as Markdown, made from notes.sql.

Renew it with `python -m logitlake.storage.sql.reference docs/sql.md`.
"""

import re
import sys
from pathlib import Path

import duckdb

from logitlake.storage.lake.views import statements

_PLACE = re.compile(r"(<!-- dictionary: made from storage/lake/notes.sql -->\n).*?(<!-- end -->)", re.DOTALL)


def notes() -> list[tuple[str, str | None, str]]:
    """(view or macro, column or None, note), in the order of the file."""
    with duckdb.connect() as connection:
        for statement in statements("notes.sql"):
            connection.execute(statement)
        rows: list[tuple[str, str | None, str]] = connection.execute("FROM dictionary").fetchall()
    return rows


def with_dictionary(page: str) -> str:
    """The page with its reference made anew, between its two marks."""
    return _PLACE.sub(lambda match: f"{match[1]}{_reference()}{match[2]}", page)


def _reference() -> str:
    rows = notes()
    views = [(name, note) for name, column, note in rows if column is None and "(" not in name]
    lines = []
    for view, note in views:
        lines += [f"### `{view}`", "", note, "", "| column | meaning |", "|---|---|"]
        lines += [f"| `{column}` | {text} |" for name, column, text in rows if name == view and column]
        lines.append("")
    lines += ["### Macros", "", "| macro | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {note} |" for name, _, note in rows if "(" in name]
    return "\n".join(["", *lines, "", ""])


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_dictionary(path.read_text(encoding="utf-8")), encoding="utf-8")
