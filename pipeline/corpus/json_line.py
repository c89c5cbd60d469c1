"""One JSON value from bytes: its number of values is bounded before it is parsed, and no object has a key twice."""

from typing import Any

import numpy as np
import orjson

# One value takes up to about 200 bytes as a Python object.
MAX_VALUES = 2**20
_DELIMITERS = b'",:[{'
_OTHERS = bytes(set(range(256)) - set(_DELIMITERS))


class RepeatedKeyError(ValueError):
    """An object has a key twice: which of the two counts is not defined."""


class TooManyValuesError(ValueError):
    """The text holds more values than are read."""


def parse_json(text: bytes, max_values: int = MAX_VALUES) -> Any:
    """The value of a JSON text. Raises orjson.JSONDecodeError, RepeatedKeyError or TooManyValuesError.

    Outside strings, JSON has a colon after each key and nowhere else: fewer keys than colons is a repeated key. For
    most short texts a quick count, which is never too low, shows that no key is repeated.
    """
    value = None
    # A value takes a byte at least: a short text can't hold too many.
    if len(text) <= max_values:
        value = orjson.loads(text)
        if _count_keys(value) == _most_colons_outside_strings(text):
            return value
    n_values, n_colons = _count_outside_strings(text)
    if n_values > max_values:
        raise TooManyValuesError(f"{n_values} values, at most {max_values} are read")
    value = orjson.loads(text) if value is None else value
    if _count_keys(value) != n_colons:
        raise RepeatedKeyError("an object has a key twice")
    return value


def _most_colons_outside_strings(text: bytes) -> int:
    """Colons after a quote or a blank: those after keys, and a few inside strings."""
    return sum(before[-1:] in b'" \t\r\n' for before in text.split(b":")[:-1])


def _count_outside_strings(text: bytes) -> tuple[int, int]:
    """The number of values (or one less) and of colons, as far as the text is JSON."""
    # A backslash starts an escape, so that the first of two never escapes a quote.
    quoted = text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text
    delimiters = np.frombuffer(quoted.translate(None, _OTHERS), np.uint8)
    # The parity of the quotes so far: a sum of bytes may overflow without changing it.
    inside = np.cumsum(delimiters == ord('"'), dtype=np.uint8) & 1
    outside = delimiters[inside == 0]
    counts = {sign: int(np.count_nonzero(outside == ord(sign))) for sign in ",[{:"}
    return counts[","] + counts["["] + counts["{"], counts[":"]


def _count_keys(value: Any) -> int:
    n_keys = 0
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            n_keys += len(item)
            rest.extend(item.values())
        elif isinstance(item, list):
            rest.extend(item)
    return n_keys
