"""Counts as a page for people writes them."""


def big(number: float) -> str:
    """A count to three figures once there are millions: 63,024, 1.2 million."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(number) >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"
