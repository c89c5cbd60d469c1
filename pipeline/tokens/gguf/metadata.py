"""The metadata of a GGUF file: its names and values, without the tensors.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. The reader of the
`gguf` package takes 20 s for a vocabulary of 256,000 tokens, this one half a second.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

from logitlake.storage.errors import SettingsError

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_ENTRIES = 1 << 28


def read_metadata(path: Path) -> dict[str, Any]:
    """Values by name: numbers, texts, and lists of them. Raises SettingsError for a file that is no GGUF file."""
    try:
        with path.open("rb") as file:
            magic, version = file.read(4), _number(file, "<I")
            if magic != b"GGUF" or version not in (2, 3):
                raise ValueError(f"it begins with {magic!r} and version {version}")
            _number(file, "<Q")  # tensors
            names = range(_count(file))
            return {_text(file): _value(file, _number(file, "<I")) for _ in names}
    except (OSError, ValueError, RecursionError, struct.error) as error:
        raise SettingsError(
            f"{path}: expected a GGUF file of version 2 or 3, found that {error}; copy it again"
        ) from None


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _number(file, _format(kind))
    kind, count = _number(file, "<I"), _count(file)
    if kind in (_STRING, _ARRAY):
        return [_value(file, kind) for _ in range(count)]
    number = struct.Struct(_format(kind))
    content = file.read(count * number.size)
    return [value for (value,) in number.iter_unpack(content)]


def _format(kind: int) -> str:
    if kind not in _NUMBERS:
        raise ValueError(f"a value has the unknown type {kind}")
    return _NUMBERS[kind]


def _number(file: BinaryIO, layout: str) -> Any:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))[0]


def _count(file: BinaryIO) -> int:
    count = int(_number(file, "<Q"))
    if count > _MAX_ENTRIES:
        raise ValueError(f"a list has {count} entries")
    return count


def _text(file: BinaryIO) -> str:
    length = _count(file)
    content = file.read(length)
    if len(content) != length:
        raise ValueError("it ends in the middle of a text")
    return content.decode()
