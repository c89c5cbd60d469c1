"""A lack of memory while a file is read: it says nothing about the file, so it must not count as damage."""

import re

import duckdb

from logitlake.storage.errors import OutOfMemoryError

_SIGN = "Out of Memory Error"
_SIZE = re.compile(r"of size ([\d.]+) ?([KMGTPE]i?B|bytes)?", re.IGNORECASE)
_POWERS = {letter: 10 * power for power, letter in enumerate("KMGTPE", 1)}
# A damaged length asks for more than any reader here needs at once.
_LARGEST = 1 << 31


def raise_for_lack_of_memory(error: BaseException) -> None:
    """Raise OutOfMemoryError if that is what DuckDB or pyarrow says; return for any other error."""
    if problem := lack_of_memory(error):
        raise OutOfMemoryError(problem) from None


def lack_of_memory(error: BaseException) -> str | None:
    """The reason and the advice if there was not enough memory; None for another error.

    A damaged file may hold lengths that no machine has memory for: such an error is one of the file.
    """
    text = str(error).strip()
    # DuckDB wraps the error of a result in one of another class.
    says_so = isinstance(error, MemoryError) or (isinstance(error, duckdb.Error) and _SIGN in text)
    if not says_so or _bytes_asked(text) >= _LARGEST:
        return None
    line = next((line for line in text.splitlines() if _SIGN in line), text.partition("\n")[0])
    return f"out of memory ({line or 'no detail'}): free some, or give the process more, and run again"


def _bytes_asked(text: str) -> float:
    found = _SIZE.search(text)
    if found is None:
        return 0
    return float(found[1].rstrip(".")) * (1 << _POWERS.get((found[2] or "b")[0].upper(), 0))
