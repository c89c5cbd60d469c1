"""Modules that a command does without, though a library would import them if they are there."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Absent(MetaPathFinder):
    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == self._name:
            raise ModuleNotFoundError(f"{fullname} is kept out of this command", name=fullname)
        return None


def keep_out(name: str) -> None:
    """Let a module that is not imported yet be absent for the rest of this process.

    DuckDB imports pandas at the first parameter of a query, and pyarrow at the first time of day, to see whether a
    value is one of its: that takes as long as all the rest of a short command.
    """
    sys.meta_path.insert(0, _Absent(name))
