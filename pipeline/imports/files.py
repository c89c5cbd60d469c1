"""The files of a folder that another program wrote: Parquet, or Arrow as `datasets` saves it."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from logitlake.storage.errors import CorpusError, SettingsError

# Rows at a time. Rows may be packed to many thousand tokens, with a hundred entries each.
_ROWS = 16


def find_files(folder: Path) -> list[Path]:
    """The files below a folder, in the order of their paths. Raises SettingsError if there is none.

    Of a data set that `datasets` saved they are those that it names: it leaves `cache-*.arrow` of its own beside them.
    """
    if not folder.is_dir():
        raise SettingsError(f"import {folder}: expected a folder, found {'a file' if folder.exists() else 'nothing'}")
    found = (path for path in folder.rglob("*") if path.suffix in (".parquet", ".arrow") and path.is_file())
    saved = lru_cache(maxsize=None)(_saved_files)
    files = sorted(path for path in found if path.suffix == ".parquet" or _is_data(path, saved(path.parent)))
    if not files:
        raise SettingsError(f"import {folder}: expected *.parquet, or *.arrow as `datasets` saves them, found none")
    return files


def _is_data(file: Path, saved: frozenset[str] | None) -> bool:
    return file.name in saved if saved is not None else not file.name.startswith("cache-")


def _saved_files(folder: Path) -> frozenset[str] | None:
    """The names that the `state.json` of a saved data set lists; None if there is no such file, or another one."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
        return frozenset(str(entry["filename"]) for entry in state["_data_files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_batches(file: Path) -> Iterator[tuple[int, pa.Table]]:
    """Batches of rows, each with the number of rows before it. Raises CorpusError for a file that can't be read."""
    first = 0
    try:
        for batch in _batches(file):
            for begin in range(0, batch.num_rows, _ROWS):
                table = pa.Table.from_batches([batch.slice(begin, _ROWS)])
                yield first, table
                first += table.num_rows
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{file}: can't be read after row {first}: {error}; copy the file again") from None


def _batches(file: Path) -> Iterator[pa.RecordBatch]:
    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches(batch_size=_ROWS)
        return
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        yield from stream
