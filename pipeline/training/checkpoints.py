"""Checkpoints that can be trusted: each has a manifest of its files, written last; a damaged one is passed over."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from logitlake.pipeline.students.file_hashes import FileHashes, difference, hash_files
from logitlake.pipeline.training.sync_directory import sync_directory

log = logging.getLogger(__name__)

READER_STATE = "reader.json"
MANIFEST = "manifest.json"
_FILES = "files"


def complete_checkpoint(directory: Path, reader_state: dict[str, Any]) -> None:
    """Add the reader's state to a checkpoint whose other files are written, those of all ranks, and then its manifest.

    Everything is on the disk before the manifest appears. Its staging file comes first: a checkpoint with a reader's
    state and neither of the two is one of an older logitlake, which wrote the reader's state last.
    """
    (directory / MANIFEST).unlink(missing_ok=True)
    staged = directory / f"{MANIFEST}.tmp"
    staged.touch()
    sync_directory(directory)
    (directory / READER_STATE).write_text(json.dumps(reader_state), encoding="utf-8")
    sync_directory(directory)
    hashes = hash_files(directory, leave_out=(staged.name,))
    with staged.open("w", encoding="utf-8") as file:
        json.dump({_FILES: hashes}, file)
        file.flush()
        os.fsync(file.fileno())
    staged.rename(directory / MANIFEST)
    sync_directory(directory.parent, files=False)


def last_checkpoint(directory: Path) -> Path | None:
    """The newest whole checkpoint in a training directory, or None. One that is not whole is named in the log."""
    newest_first = sorted(_checkpoints(directory), key=_step, reverse=True)
    for path in newest_first:
        problem = problem_of(path)
        if not problem:
            return path
        log.warning("checkpoint %s is not whole and is not used: %s", path, problem)
    if newest_first:
        log.warning("no checkpoint in %s is whole: the training starts from step 0", directory)
    return None


def problem_of(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, in words; empty if every file is what was written.

    A complete checkpoint of an older logitlake has no hashes, and is taken as it is.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_bytes())
        expected: FileHashes = {
            str(name): [int(size), str(digest)] for name, (size, digest) in manifest[_FILES].items()
        }
    except FileNotFoundError:
        if (checkpoint / READER_STATE).exists() and not (checkpoint / f"{MANIFEST}.tmp").exists():
            return ""
        return f"it has no {MANIFEST}, so it was not written to its end"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} can't be read"
    if READER_STATE not in expected:
        return f"{MANIFEST} does not name {READER_STATE}"
    return difference(checkpoint, expected)


def set_aside_later(checkpoint: Path | None, directory: Path) -> None:
    """Take away the checkpoints that are newer than the one that a training goes on from.

    Left there, they would count among those that are kept, in the place of whole ones. One that was not written to its
    end is removed; a damaged one is renamed, and stays until the training ends.
    """
    step = -1 if checkpoint is None else _step(checkpoint)
    for path in _checkpoints(directory):
        if _step(path) > step:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            if (path / MANIFEST).exists():
                path.rename(aside)
            else:
                shutil.rmtree(path)


def _checkpoints(directory: Path) -> list[Path]:
    return [path for path in directory.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
