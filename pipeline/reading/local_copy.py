"""Decoded rows kept on a local disk, so that epochs after the first neither read shards nor decode them again.

A copy is one file per work unit and choice of rows: a checksum, a header, and flat arrays that are mapped into memory.
It appears whole or not at all, and several processes may use one folder at the same time. The lake says which rows
there are before a copy is looked for, and the name of a copy is a hash of those rows; so a copy with a forgotten
document is never used, and the next `LocalCopy.open` removes it.
"""

import json
import logging
import mmap
import os
import secrets
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from logitlake.pipeline.targets.arrow_lists import running_sums
from logitlake.pipeline.targets.decoding import CutMass, DecodedRows
from logitlake.storage.errors import SettingsError
from logitlake.storage.identity import digest
from logitlake.storage.lake.lake import Lake

log = logging.getLogger(__name__)

# Raise this number whenever decoding gives other arrays, or the file another layout.
COPY_VERSION = 1

# Columns that say which rows a copy holds.
KEY_COLUMNS = ("doc_id", "window_index", "checksum", "n_tokens", "n_targets")

DEFAULT_MAX_BYTES = 50 * 10**9

_SUFFIX = ".rows"
_ALIGNMENT = 64
_STALE_SECONDS = 3600
_NO_DOCUMENTS = "none"


class LocalCopy:
    """Copies of one lake in `directory`, at most `max_bytes` of them: those not used for longest are removed first.

    `documents` has a hash of its documents for every work unit of the lake. A damaged copy is removed, and its rows are
    read from the lake again.
    """

    def __init__(self, directory: Path, documents: Mapping[str, str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_bytes < 1:
            raise SettingsError(f"size of the local copy: expected at least 1 byte, found {max_bytes}")
        self.directory = directory
        self._documents = documents
        self._max_bytes = max_bytes
        self._checked: set[str] = set()
        self._warned = False
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"local copy: can't make the folder {directory} ({error}); name another folder, or train without one"
            ) from error
        self._bytes = sum(size for _, size, _ in self._files())

    @classmethod
    def open(cls, directory: Path, lake: Lake, *, max_bytes: int = DEFAULT_MAX_BYTES) -> "LocalCopy":
        """The copies of `lake`, in a folder of its own below `directory`.

        Removes the copies of every unit that has lost a document since: forgotten ones are then on this disk no more.
        """
        rows = lake.sql(
            "SELECT unit_id, concat_ws(':', count(*), bit_xor(md5_number(doc_id))) AS documents "
            "FROM store.documents GROUP BY unit_id"
        )
        documents = dict(zip(rows["unit_id"].to_pylist(), rows["documents"].to_pylist(), strict=True))
        copy = cls(cls._folder(directory, lake), documents, max_bytes=max_bytes)
        copy.remove_outdated()
        return copy

    @classmethod
    def clean(cls, directory: Path, lake: Lake) -> None:
        """Remove the copies of units that lost a document. Does nothing where this machine has no copy of the lake."""
        if cls._folder(directory, lake).is_dir():
            cls.open(directory, lake)

    @staticmethod
    def _folder(directory: Path, lake: Lake) -> Path:
        of_lake = digest(b"local copy", lake.location.catalog.encode(), lake.location.data.encode())[:16]
        return directory.expanduser().absolute() / of_lake

    def name(self, unit_id: str, keys: pa.Table, cut_mass: CutMass) -> str:
        """The file's name for these rows (KEY_COLUMNS) of a unit: the unit, its documents today, and the rows."""
        rows = [",".join(map(str, keys[column].to_pylist())).encode() for column in KEY_COLUMNS]
        of_rows = digest(b"rows", str(COPY_VERSION).encode(), cut_mass.encode(), *rows)
        return f"{unit_id}-{self._state(unit_id)}-{of_rows}{_SUFFIX}"

    def load(self, name: str) -> DecodedRows | None:
        """The decoded rows of a copy, mapped into memory; None if there is no such copy, or it is damaged."""
        path = self.directory / name
        try:
            with path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # not there, removed by another process, or empty
            return None
        with suppress(OSError):  # a read-only folder
            os.utime(path)
        view = memoryview(content)
        if name not in self._checked and xxhash.xxh3_128_digest(view[16:]) != view[:16]:
            _remove(path)
            return None
        self._checked.add(name)
        return _decoded(view)

    def save(self, name: str, chunks: Sequence[DecodedRows]) -> None:
        """Store the rows of one unit, decoded in one or several chunks.

        A full disk or a read-only folder is no error: nothing is stored, and the log says so once.
        """
        header, arrays = _arrays(chunks)
        hasher = xxhash.xxh3_128(header)
        for array in arrays:
            hasher.update(array.data)
            hasher.update(_padding(array.nbytes))
        staged = self.directory / f"{name}.{secrets.token_hex(4)}.tmp"
        try:
            with staged.open("xb") as file:
                file.write(hasher.digest() + header)
                for array in arrays:
                    file.write(array.data)
                    file.write(_padding(array.nbytes))
                size = file.tell()
            staged.replace(self.directory / name)
        except OSError as error:
            _remove(staged)
            if not self._warned:
                log.warning(
                    "local copy: can't write to %s (%s); training reads the shards instead", staged.parent, error
                )
                self._warned = True
            return
        self._checked.add(name)
        self._bytes += size
        if self._bytes > self._max_bytes:
            self._remove_oldest()

    def remove_outdated(self) -> None:
        """Remove copies of units whose documents are not those of today, and what a killed process left behind."""
        for path, _, changed in self._files():
            unit_id, _, rest = path.name.partition("-")
            stale = path.suffix == ".tmp" and changed < time.time() - _STALE_SECONDS
            if stale or rest.partition("-")[0] != self._state(unit_id):
                _remove(path)

    def _state(self, unit_id: str) -> str:
        return digest(b"documents", self._documents.get(unit_id, _NO_DOCUMENTS).encode())[:16]

    def _remove_oldest(self) -> None:
        files = sorted(self._files(), key=lambda file: file[2])
        self._bytes = sum(size for _, size, _ in files)
        for path, size, _ in files:
            if self._bytes <= self._max_bytes:
                return
            _remove(path)
            self._bytes -= size

    def _files(self) -> list[tuple[Path, int, float]]:
        """Path, size and time of last use of every file."""
        files = []
        for path in self.directory.iterdir():
            with suppress(FileNotFoundError):  # removed by another process
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    files.append((path, status.st_size, status.st_mtime))
        return files


def _arrays(chunks: Sequence[DecodedRows]) -> tuple[bytes, list[np.ndarray]]:
    """The header of a file, and its arrays in the narrowest type that holds their values."""
    lengths = [np.diff(chunk.places) for chunk in chunks]
    entries = [np.diff(chunk.bounds) for chunk in chunks]
    arrays = {
        "places": running_sums(np.concatenate(lengths)),
        "bounds": running_sums(np.concatenate(entries)),
        "tokens": _narrow(np.concatenate([chunk.tokens for chunk in chunks])),
        "counts": _narrow(np.concatenate([chunk.counts for chunk in chunks])),
        "ids": _narrow(np.concatenate([chunk.ids for chunk in chunks])),
        "probs": np.concatenate([chunk.probs for chunk in chunks]),
    }
    if any(chunk.ghost is not None for chunk in chunks):
        arrays["ghost"] = np.concatenate(
            [np.zeros(len(chunk.tokens), np.float32) if chunk.ghost is None else chunk.ghost for chunk in chunks]
        )
    described = json.dumps([[name, array.dtype.str, len(array)] for name, array in arrays.items()]).encode()
    start = len(described).to_bytes(8, "little") + described
    return start + _padding(16 + len(start)), list(arrays.values())


def _decoded(view: memoryview) -> DecodedRows:
    """The rows of a whole, undamaged file."""
    length = int.from_bytes(view[16:24], "little")
    at = 24 + length
    at += len(_padding(at))
    arrays: dict[str, np.ndarray] = {}
    for name, dtype, count in json.loads(bytes(view[24 : 24 + length])):
        arrays[name] = np.frombuffer(view, dtype, count, at)
        at += arrays[name].nbytes
        at += len(_padding(at))
    return DecodedRows(
        places=arrays["places"].tolist(),
        bounds=arrays["bounds"].tolist(),
        tokens=arrays["tokens"],
        counts=arrays["counts"],
        ids=arrays["ids"],
        probs=arrays["probs"],
        ghost=arrays.get("ghost"),
    )


def _narrow(values: np.ndarray) -> np.ndarray:
    """The same values of 0 and above in one, two or four bytes."""
    highest = int(values.max(initial=0))
    return values.astype(np.uint8 if highest < 2**8 else np.uint16 if highest < 2**16 else np.int32)


def _remove(path: Path) -> None:
    """Remove a file, unless it is gone already or this user may not."""
    with suppress(OSError):
        path.unlink()


def _padding(size: int) -> bytes:
    return bytes(-size % _ALIGNMENT)
