"""Lists on a terminal, however narrow."""

from datetime import datetime
from io import StringIO

import pytest
from rich.console import Console

from logitlake.flows.terminal.screen import table_of, what_fits

ROWS = [
    {
        "commit_number": 7,
        "committed_at": datetime(2030, 1, 2, 3, 4, 5),
        "unit_id": "a" * 32,
        "recipe_id": "b" * 32,
        "n_tokens": 1_234_567,
        "n_bytes": 400_997,
        "seconds": 136.6,
        "weight": None,
        "sources": ["corpus/a/rather/long/path/to/something/deep/below.txt"],
    }
]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(width: int) -> None:
    names, dropped = what_fits(ROWS, width)
    assert set(names) | set(dropped) == set(ROWS[0]) - {"weight"}
    written = StringIO()
    Console(width=width, file=written).print(table_of([{name: row[name] for name in names} for row in ROWS]))
    text = written.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert ("1,234,567" in text) == ("n_tokens" in names)
    assert ("b" * 12 in text) == ("recipe_id" in names)
    assert "2030-01-02 03:04" in text


def test_a_wide_terminal_has_all_columns_and_a_narrow_one_keeps_the_first() -> None:
    assert what_fits(ROWS, 200)[1] == []
    names, dropped = what_fits(ROWS, 60)
    assert names[0] == "commit_number"
    assert dropped[0] == "unit_id"
