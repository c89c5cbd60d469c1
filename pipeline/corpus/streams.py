"""Lines of a plain, gzip or Zstandard file; memory is bounded by the longest line that is read."""

import gzip
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_LINE_BYTES = 64 * 2**20
# The largest window that a Zstandard frame may ask for, as a power of 2: the default bound of the zstd program.
MAX_WINDOW_LOG = 27
_READ_BYTES = 2**20

CORRUPT_STREAM = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file. Raises OSError for anything else, without waiting for the writer of a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb", buffering=_READ_BYTES)


@contextmanager
def open_stream(path: Path) -> Iterator[IO[bytes]]:
    """The uncompressed bytes of a file, by its suffix: .gz, .zst, else as it is. Decompresses piece by piece.

    Raises OSError if it can't be opened; reading raises one of CORRUPT_STREAM if the compressed data is damaged, or
    needs a window above 2**MAX_WINDOW_LOG bytes.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield file
        elif path.suffix == ".gz":
            with gzip.GzipFile(fileobj=file, mode="rb") as stream:
                yield cast(IO[bytes], stream)
        elif path.suffix in (".zst", ".zstd"):
            options = {int(zstd.DecompressionParameter.window_log_max): MAX_WINDOW_LOG}
            with zstd.ZstdFile(file, options=options) as stream:
                yield cast(IO[bytes], stream)
        else:
            yield file


def lines(stream: IO[bytes], max_bytes: int = MAX_LINE_BYTES) -> Iterator[bytes | int]:
    """Each line with its ending; for a line over `max_bytes` its length instead, without holding it in memory."""
    while line := stream.readline(max_bytes + 1):
        if len(line) <= max_bytes:
            yield line
        else:
            yield len(line) + _skip_line(stream, done=line.endswith(b"\n"))


def _skip_line(stream: IO[bytes], *, done: bool) -> int:
    """Bytes read up to the end of the line."""
    skipped = 0
    while not done:
        rest = stream.readline(_READ_BYTES)
        skipped += len(rest)
        done = not rest or rest.endswith(b"\n")
    return skipped
