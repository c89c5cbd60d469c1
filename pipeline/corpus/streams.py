"""Lines of a plain, gzip or Zstandard file, with a limit on the memory of one line."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import zstandard

MAX_LINE_BYTES = 256 * 2**20
_READ_BYTES = 2**20
# Frames of `zstd --long` need more than the library's default; memory is used only if a frame needs it.
_MAX_ZSTD_WINDOW = 2**31

CORRUPT_STREAM = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)


def open_stream(path: Path) -> IO[bytes]:
    """The uncompressed bytes of a file, by its suffix: .gz, .zst, else as it is.

    Raises OSError if it can't be opened; reading raises one of CORRUPT_STREAM if the compressed data is damaged.
    """
    if path.suffix == ".gz":
        # Without a second buffer: at damaged data it would lose the bytes read before.
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix in (".zst", ".zstd"):
        return io.BufferedReader(_ZstdStream(path), _READ_BYTES)
    return path.open("rb", buffering=_READ_BYTES)


def lines(stream: IO[bytes], max_bytes: int = MAX_LINE_BYTES) -> Iterator[bytes | int]:
    """Each line with its ending; for a line over `max_bytes` its length instead, without holding it in memory."""
    while line := stream.readline(max_bytes + 1):
        if len(line) <= max_bytes:
            yield line
        else:
            yield len(line) + _skip_line(stream, max_bytes, done=line.endswith(b"\n"))


def _skip_line(stream: IO[bytes], max_bytes: int, *, done: bool) -> int:
    """Bytes read up to the end of the line."""
    skipped = 0
    while not done:
        rest = stream.readline(max_bytes)
        skipped += len(rest)
        done = not rest or rest.endswith(b"\n")
    return skipped


class _ZstdStream(io.RawIOBase):
    """Zstandard frames one after the other. Unlike the library's own stream, a frame cut short is an EOFError."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
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
        data = self._input or self._file.read(_READ_BYTES // 8)
        self._input = b""
        if not data:
            if self._frame is not None:
                raise EOFError("the file ends in the middle of a Zstandard frame")
            return False
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW).decompressobj()
        self._output = memoryview(self._frame.decompress(data))
        if self._frame.eof:
            self._input = self._frame.unused_data
            self._frame = None
        return True

    def close(self) -> None:
        self._file.close()
        super().close()
