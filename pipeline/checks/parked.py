"""Log-probabilities of groups of windows that wait on the disk for a second model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from logitlake.storage.connection.disk_errors import full_disk_named


class Parked:
    """Lists of tensors on the CPU by number. Each list is in memory only while somebody else holds it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, number: int, tensors: list[torch.Tensor]) -> None:
        """Write a list. Raises LakeError if the disk is full."""
        with full_disk_named(self._directory):
            np.savez(self._path(number), *(tensor.numpy() for tensor in tensors))

    def take(self, number: int) -> list[torch.Tensor]:
        """Read a list, and remove its file."""
        with np.load(self._path(number)) as arrays:
            tensors = [torch.from_numpy(arrays[name]) for name in arrays.files]
        self._path(number).unlink()
        return tensors

    def _path(self, number: int) -> Path:
        return self._directory / f"{number}.npz"


@contextmanager
def parked() -> Iterator[Parked]:
    """A place in the directory for temporary files (TMPDIR), which is removed at the end."""
    with TemporaryDirectory(prefix="logitlake-check-") as directory:
        yield Parked(Path(directory))
