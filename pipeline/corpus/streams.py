"""Lines of a plain, gzip or Zstandard file; memory is bounded by the longest line that is read."""

import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import zstandard

MAX_LINE_BYTES = 64 * 2**20
# The largest window that a Zstandard frame may ask for: the default bound of the zstd program.
MAX_WINDOW_BYTES = 2**27
_READ_BYTES = 2**20
# Four bytes can decompress to a block of 128 KiB: what is decompressed at once is below 32 MiB.
_ZSTD_READ_BYTES = 2**10

CORRUPT_STREAM = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)


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
    needs a window above MAX_WINDOW_BYTES.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield file
        elif path.suffix == ".gz":
            with gzip.GzipFile(fileobj=file, mode="rb") as stream:
                yield cast(IO[bytes], stream)
        elif path.suffix in (".zst", ".zstd"):
            with io.BufferedReader(_ZstdStream(file), _READ_BYTES) as stream:
                yield stream
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


class _ZstdStream(io.RawIOBase):
    """Zstandard frames one after the other. Unlike the library's own stream, a frame cut short is an EOFError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        while not self._output:
            if not self._decode_more():
                return 0
        count = min(len(view), len(self._output))
        view[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def _decode_more(self) -> bool:
        """Decode one piece; False at the end of the file."""
        data = self._input or self._file.read(_ZSTD_READ_BYTES)
        self._input = b""
        if not data:
            if self._frame is not None:
                raise EOFError("the file ends in the middle of a Zstandard frame")
            return False
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        try:
            self._output = memoryview(self._frame.decompress(data))
        except zstandard.ZstdError as error:
            if "too much memory" not in str(error):
                raise
            raise zstandard.ZstdError(
                f"a window above {MAX_WINDOW_BYTES} bytes is needed; pack the file again with `zstd --long=27`"
            ) from None
        if self._frame.eof:
            self._input = self._frame.unused_data
            self._frame = None
        return True
