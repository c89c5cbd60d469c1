"""DuckDB's extensions: loaded from the wheels that pin them, installed from DuckDB's server only if a wheel is missing.

Never unsigned: DuckDB checks the signature of either.
"""

from importlib.util import find_spec
from pathlib import Path

import duckdb

from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.errors import LakeError


def load_extension(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load `name` (such as "ducklake") into the connection. Raises LakeError with what to install."""
    file = wheel_file(name)
    try:
        if file is None:
            connection.install_extension(name)
            connection.load_extension(name)
        else:
            connection.load_extension(str(file))
    except duckdb.Error as error:
        raise_for_lack_of_memory(error)
        wheel = f"duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}"
        raise LakeError(
            f"DuckDB extension {name}: can't be loaded ({error}). Install the wheel of DuckDB's own version: "
            f"pip install {wheel}"
        ) from error


def wheel_file(name: str) -> Path | None:
    """The extension's file in its wheel, if that is installed."""
    spec = find_spec(f"duckdb_extension_{name}")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        if file.is_file():
            return file
    return None
