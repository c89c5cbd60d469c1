"""Counts and texts of documents in the form of the page."""

from logitlake.flows.terminal.visible import visible


def big(number: float) -> str:
    """A count to three figures once there are millions: 63,024, 1.2 million."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(number) >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"


_LONGEST = 48


_MARKS = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})


def passage_text(text: str) -> str:
    """Text with its lines: a new line is marked and kept, tabs and spaces stay."""
    return visible(text).replace("\n", "↵\n")


def token_text(text: str) -> str:
    """One token by itself: white space is marked, and a long one is cut."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 1]}…"
    return visible(text).translate(_MARKS) or "∅"
