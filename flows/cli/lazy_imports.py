"""Keep optional imports of libraries out of short commands."""

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
    """Make a module that is not imported yet appear absent for the rest of this process.

    DuckDB imports pandas at the first parameter of a query, and pyarrow at the first time of day, to
    recognise its values: that takes as long as the rest of a short command.
    """
    sys.meta_path.insert(0, _Absent(name))
