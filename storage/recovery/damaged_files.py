"""Copies of damaged files in `damaged/`, made before upkeep removes the file or rebuild replaces it."""

import duckdb

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.connection.object_store import list_paths, put_bytes, read_all
from logitlake.storage.errors import LakeError

FOLDER = "damaged/"
_SUFFIX = ".damaged"


def copy_aside(location: LakeLocation, path: str) -> str | None:
    """Copy a file under the data path to `damaged/`, under a name that no reader takes for data; returns the copy, or
    None if another process has removed the file.

    A bucket has no rename, so the same copy is made everywhere. Raises LakeError if the bytes can't be read or written.
    """
    name = path.removeprefix(location.data)
    target = f"{FOLDER}{name.replace('/', '__')}{_SUFFIX}"
    if list_paths(location, target):
        return location.data + target
    if not list_paths(location, name):
        return None
    try:
        content = read_all(location, name)[path]
    except (duckdb.Error, KeyError) as error:
        raise_for_lack_of_memory(error)
        if not list_paths(location, name):
            return None
        raise LakeError(
            f"{path}: can't be read, so it can't be copied to {target} ({error}): nothing was removed"
        ) from error
    return put_bytes(location, target, content)
