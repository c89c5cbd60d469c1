"""Windows of a long document: every label has exactly one target.

A window is a run of tokens [start, end) of a document. Entry i of a window is the target for its token i+1 (the label),
so a label can only be predicted with at least one token before it in the same window.
"""

from typing import NamedTuple


class Window(NamedTuple):
    """Tokens [start, end) of the document; its own labels are the tokens [first_label, end)."""

    start: int
    end: int
    first_label: int


def windows(n_tokens: int, length: int, overlap: int) -> list[Window]:
    """Windows that start every `length - overlap` tokens, until one reaches the end of the document.

    A label belongs to the first window that contains it; later ones hold it as context only. Windows share one token
    even if `overlap` is 0, since a window's first token has nothing before it to be predicted from: so the tokens
    1..n_tokens-1 are split among the windows without gap or double. Cost: O(number of windows).
    """
    stride = length - max(overlap, 1)
    found = [Window(0, min(length, n_tokens), 1)]
    while found[-1].end < n_tokens:
        start = found[-1].start + stride
        found.append(Window(start, min(start + length, n_tokens), found[-1].end))
    return found
