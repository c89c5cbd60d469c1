"""Hashes of weights: the same tensors have the same hash, however they are split into files.

Needs no torch: safetensors is a JSON header and raw bytes. Hashing is streamed. The user's cache stores the hashes by
path, size and modification time, so that later runs do not read the weights again.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from logitlake.storage.errors import SettingsError
from logitlake.storage.identity import canonical_json, digest

_HEADER_LIMIT = 1 << 27
_READ = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPrint:
    """One tensor of a file: `hash` covers dtype, shape and bytes; `size` is its number of elements."""

    hash: str
    size: int


def cache_directory() -> Path:
    """The directory of derived files: LOGITLAKE_CACHE, else the user's cache directory. Safe to delete."""
    return Path(os.environ.get("LOGITLAKE_CACHE") or platformdirs.user_cache_dir("logitlake"))


def hash_weights(files: Sequence[Path]) -> tuple[str, int]:
    """Hash and number of parameters of the tensors in `files`; their order and number do not matter.

    Files that are not safetensors (pickles, allowed by name only) count as one opaque tensor each.
    Raises SettingsError for a file that can't be read, or a tensor name that is in two files.
    """
    tensors: dict[str, TensorPrint] = {}
    for path in files:
        for name, tensor in _tensors_of(path).items():
            if name in tensors:
                raise SettingsError(
                    f"weights {path}: tensor {name!r} is in another file as well; keep one set of weight files"
                )
            tensors[name] = tensor
    parts = [part for name in sorted(tensors) for part in (name.encode(), tensors[name].hash.encode())]
    return digest(b"weights", *parts), sum(tensor.size for tensor in tensors.values())


def hash_adapter(directory: Path, files: Sequence[Path]) -> str:
    """Hash of a PEFT adapter: its tensors, and the settings that say how they are applied."""
    weights, _ = hash_weights(files)
    config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    # The base model's location and the writer's version do not change the adapter.
    for key in ("base_model_name_or_path", "revision", "peft_version", "inference_mode"):
        config.pop(key, None)
    return digest(b"adapter", weights.encode(), canonical_json(config))


def _tensors_of(path: Path) -> dict[str, TensorPrint]:
    try:
        status = path.stat()
        resolved = str(path.resolve())
        stamp = {"path": resolved, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        entry = cache_directory() / "fingerprints" / f"{digest(resolved.encode())}.json"
        if (cached := _read_cache(entry, stamp)) is not None:
            return cached
        with path.open("rb") as file:
            tensors = _hash_safetensors(file, path) if path.suffix == ".safetensors" else _hash_opaque(file, path)
    except OSError as error:
        raise SettingsError(f"weights {path}: can't be read ({error.strerror}); check teacher.model") from None
    content = {name: [tensor.hash, tensor.size] for name, tensor in tensors.items()}
    write_json(entry, {**stamp, "tensors": content})
    return tensors


def tensor_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in the safetensors files of a directory, by name; only headers are read.

    Empty if there is no such file, or one that can't be read: who loads the weights says why.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        for path in sorted(directory.glob("*.safetensors")):
            shapes |= {name: tuple(entry["shape"]) for name, entry in _header_of(path).items()}
    except (OSError, SettingsError):
        return {}
    return shapes


def tensor_dtypes(directory: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Dtype, as safetensors names it (`BF16`), and shape of each tensor of a directory; empty as for tensor_shapes."""
    try:
        headers = [_header_of(path) for path in sorted(directory.glob("*.safetensors"))]
    except (OSError, SettingsError):
        return []
    return [(str(entry["dtype"]), tuple(entry["shape"])) for header in headers for entry in header.values()]


def _header_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return _header(file, path)


def _hash_safetensors(file: BinaryIO, path: Path) -> dict[str, TensorPrint]:
    header = _header(file, path)
    begin = file.tell()
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        first, last = entry["data_offsets"]
        file.seek(begin + first)
        sha = hashlib.sha256(canonical_json([entry["dtype"], entry["shape"]]) + b"\0")
        if _update(sha, file, last - first) != last - first:
            raise SettingsError(f"weights {path}: shorter than its header says: the file is incomplete, copy it again")
        elements = 1
        for length in entry["shape"]:
            elements *= length
        tensors[name] = TensorPrint(hash=sha.hexdigest(), size=elements)
    return tensors


def _header(file: BinaryIO, path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, without its free-form metadata."""
    length = int.from_bytes(file.read(8), "little")
    try:
        if not 0 < length <= _HEADER_LIMIT:
            raise ValueError(f"header of {length} bytes")
        header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        assert all({"dtype", "shape", "data_offsets"} <= entry.keys() for entry in header.values())
    except (ValueError, AttributeError, AssertionError) as error:
        raise SettingsError(f"weights {path}: not a safetensors file ({error}); copy or convert it again") from None
    return header


def _hash_opaque(file: BinaryIO, path: Path) -> dict[str, TensorPrint]:
    sha = hashlib.sha256(b"opaque\0")
    read = _update(sha, file, path.stat().st_size)
    return {path.name: TensorPrint(hash=sha.hexdigest(), size=read // 2)}


def _update(sha: "hashlib._Hash", file: BinaryIO, length: int) -> int:
    left = length
    while left > 0 and (piece := file.read(min(left, _READ))):
        sha.update(piece)
        left -= len(piece)
    return length - left


def _read_cache(path: Path, stamp: Mapping[str, Any]) -> dict[str, TensorPrint] | None:
    try:
        cached = read_json(path)
        if {key: cached[key] for key in stamp} != stamp:
            return None
        return {name: TensorPrint(hash=entry[0], size=entry[1]) for name, entry in cached["tensors"].items()}
    except (AttributeError, KeyError, TypeError, IndexError):
        return None


def read_json(path: Path) -> Any:
    """The content of a file of the cache; None if there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: Any) -> None:
    """Write a file of the cache, whole. Errors are ignored: without the cache, things are computed again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump(content, file)
        Path(file.name).replace(path)
