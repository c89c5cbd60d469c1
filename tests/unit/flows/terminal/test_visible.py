"""Nothing that a terminal would obey comes out of a document."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitlake.flows.terminal.visible import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "␛[2J␛]0;title␇"),
        ("\x9b31m", "\\u009b31m"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("over\rwritten\x08\x7f", "over␍written␈␡"),
        ("lines\nand\ttabs", "lines\nand\ttabs"),
        ("\ud800", "\\ud800"),
        ("ünï あ 👩\u200d🔬\u00a0x", "ünï あ 👩\u200d🔬\u00a0x"),
    ],
)
def test_nothing_that_a_terminal_would_obey_comes_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_what_is_visible_has_no_control_character_but_new_lines_and_tabs(text: str) -> None:
    shown = visible(text)
    assert all(character.isprintable() or character.isspace() or character in "\u200c\u200d" for character in shown)
    assert shown.encode("utf-8").decode("utf-8") == shown
