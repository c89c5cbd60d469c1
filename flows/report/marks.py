"""Text of documents on a page: white space is marked, and what has no glyph or turns a line around is written out."""

from logitlake.flows.terminal.visible import visible

_LONGEST = 48
_MARKS = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})


def passage_text(text: str) -> str:
    """Text that keeps its lines: a new line is marked and made, tabs and spaces stay as they are."""
    return visible(text).replace("\n", "↵\n")


def token_text(text: str) -> str:
    """One token by itself: white space is marked, and a long one is cut."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 1]}…"
    return visible(text).translate(_MARKS) or "∅"
