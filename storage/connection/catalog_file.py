"""Is the file of a SQLite catalog whole? SQLite opens a copy that was cut off, and finds out when it needs the rest."""

from pathlib import Path

from logitlake.storage.errors import IntegrityError

# https://www.sqlite.org/fileformat.html, "The Database Header"; numbers are big-endian.
_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"
_PAGE_SIZE, _CHANGES, _N_PAGES, _N_PAGES_VALID_FOR = (slice(16, 18), slice(24, 28), slice(28, 32), slice(92, 96))


def check_is_whole(catalog: Path) -> None:
    """Raises IntegrityError if the file is shorter than its header says.

    While there is a journal, nothing can be said: SQLite completes the file from it.
    """
    if _has_journal(catalog):
        return
    with catalog.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC) or header[_CHANGES] != header[_N_PAGES_VALID_FOR]:
        return
    page_size = int.from_bytes(header[_PAGE_SIZE])
    expected = int.from_bytes(header[_N_PAGES]) * (65_536 if page_size == 1 else page_size)
    present = catalog.stat().st_size
    if present < expected and not _has_journal(catalog):
        raise IntegrityError(
            f"the catalog {catalog} is cut off: expected {expected:,} bytes, found {present:,}. Complete the copy, or "
            "move the file away and run `logitlake rebuild`, which makes the catalog again from the data"
        )


def _has_journal(catalog: Path) -> bool:
    """Whether another process writes to the file, or was killed while it did."""
    return any(catalog.with_name(catalog.name + suffix).exists() for suffix in ("-wal", "-journal"))
