"""Damage to the files of a lake, and what a lake answers: for tests/property/test_damage.py.

A damage is made from a random generator and the files alone, so a seed repeats it.
"""

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from logitlake.pipeline.reading.open_rows import open_rows
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.sql.session import ReadSession
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.writing.runs import note_run
from tests.strange_lake import RECIPES, make_strange_lake

_BLOCK = 512
# Of these views every row is compared; the others are made of them, or take long.
_SLOW_VIEWS = frozenset({"near_duplicates", "disagreement", "calibration", "positions", "targets", "heads", "tails"})


def make_lake(directory: Path) -> list[LakeLocation]:
    """Several units under three recipes, students, a row set of a query, forgotten documents.

    The last commits are in the journal of the catalog only: the lake comes as it was before each of them, and after the
    last one. Where a journal is damaged, SQLite shows the commits before the damage, as after a kill.
    """
    location = make_strange_lake(directory / "made")
    with Lake.open(location, read_only=False) as lake:
        first = id_of_recipe(RECIPES[0])
        query = "SELECT doc_id, 2.0 AS weight FROM documents"
        register_row_set(lake, resolve_row_set(lake, recipe_id=first, query=query))
        forget(lake, [document_id(f"0-books-0/{number}") for number in (3, 5)], reason="asked")
    assert location.catalog_file is not None
    states = [directory / name for name in ("before", "started", "finished")]
    shutil.copytree(directory / "made", states[0])
    with _journal_kept(location.catalog_file):
        for event, state in zip(("started", "finished"), states[1:], strict=True):
            with Lake.open(location, read_only=False) as lake:
                note_run(lake, "late", event, kind="capture", recipe_id=first)
            shutil.copytree(directory / "made", state)
    return [LakeLocation.resolve(state) for state in states]


@contextmanager
def _journal_kept(catalog: Path) -> Iterator[None]:
    """Keep the last commits in the journal: the last connection to close would empty it. Another process is needed,
    since Python and DuckDB each bring a SQLite, and one of them would drop the locks of the other."""
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA schema_version').fetchall();"
    code += "print(flush=True); sys.stdin.read()"
    call = [sys.executable, "-c", code, str(catalog)]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        holder.stdout.readline()
        yield
        holder.stdin.close()


def sql_answers(location: LakeLocation) -> dict[str, str]:
    """A hash of the rows of each view, and of the rows that SQL finds by the id of each unit and document."""
    answers = {}
    with ReadSession(location) as session:
        for view in _views(session):
            answers[view] = _digest_rows(session.ask(f"FROM {view}"))
        # By its statistics the catalog passes over files: each shard must still be found by what it holds.
        for doc_id in session.ask("SELECT min(doc_id) AS doc_id FROM sequences GROUP BY unit_id")["doc_id"].to_pylist():
            rows = session.ask(f"SELECT recipe_id, checksum FROM sequences WHERE doc_id = '{doc_id}'")
            answers[f"document {doc_id}"] = _digest_rows(rows)
    return answers


def _views(session: ReadSession) -> list[str]:
    names = session.ask("SELECT DISTINCT name FROM dictionary WHERE column_name IS NOT NULL ORDER BY name")["name"]
    return [name for name in names.to_pylist() if re.fullmatch(r"\w+", name) and name not in _SLOW_VIEWS]


def batch_answers(location: LakeLocation) -> dict[str, str]:
    """A hash of the batches of one epoch under each recipe."""
    answers = {}
    for recipe in map(id_of_recipe, RECIPES):
        assert location.catalog_file is not None
        rows = open_rows(catalog=str(location.catalog_file), data=location.data, recipe=recipe, batch_sequences=4)
        digest = blake2b()
        for batch in rows.reader:
            for tensor in (batch.input_ids, batch.next_ids, batch.targets.offsets, batch.targets.ids):
                digest.update(tensor.numpy().tobytes())
            digest.update(batch.targets.probs.numpy().tobytes())
        answers[recipe] = digest.hexdigest()
    return answers


def _digest_rows(rows: pa.Table) -> str:
    lines = sorted(repr(row) for row in rows.to_pylist())
    return (
        f"{len(lines)} rows, {blake2b(chr(10).join(lines).encode(errors='surrogatepass'), digest_size=8).hexdigest()}"
    )


@dataclass(frozen=True, slots=True)
class Damage:
    """What was done to which file, and the kind of file that it is."""

    kind: str
    path: Path
    action: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.action} in {self.path.name}"


def files_by_kind(location: LakeLocation) -> dict[str, list[Path]]:
    """The files of a lake: the catalog, its journal, shards, the files of each small table, and notes by folder."""
    kinds: dict[str, list[Path]] = {}
    root = location.state_directory
    assert root is not None
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix != ".lock" and not path.name.endswith("-shm"):
            kinds.setdefault(_kind(path.relative_to(root)), []).append(path)
    return kinds


def _kind(path: Path) -> str:
    if path.parts[0] != "data":
        return path.name
    if path.parts[1] == "store":
        return f"table {path.parts[2]}"
    return path.parts[1]


def damage(noise: random.Random, location: LakeLocation, kind: str) -> Damage:
    """Damage one file of a kind, in one of six ways."""
    files = files_by_kind(location)[kind]
    path = noise.choice(files)
    content = bytearray(path.read_bytes())
    others = [other for other in files if other != path]
    action = noise.choice(("flip", "flip", "flip", "zeros", "cut", "appended", "removed", *["swapped"] * bool(others)))
    place = _place(noise, path)
    if action == "flip":
        content[place] ^= 1 << noise.randrange(8)
    elif action == "zeros":
        content[place : place + _BLOCK] = bytes(len(content[place : place + _BLOCK]))
    elif action == "cut":
        del content[place:]
    elif action == "appended":
        content += noise.randbytes(noise.choice((1, 8, _BLOCK)))
    elif action == "swapped":
        other = noise.choice(others)
        here, there = path.read_bytes(), other.read_bytes()
        other.write_bytes(here)
        content[:] = there
    if action == "removed":
        path.unlink()
    else:
        path.write_bytes(content)
    return Damage(kind, path, f"{action} at {place} of {len(content)} bytes")


def _place(noise: random.Random, path: Path) -> int:
    """An offset in a file; of a Parquet file, in one of its regions, each as likely as the others."""
    size = path.stat().st_size
    regions = _regions(path, size) if path.suffix == ".parquet" else [(0, size)]
    return noise.randrange(*noise.choice(regions))


def _regions(path: Path, size: int) -> list[tuple[int, int]]:
    """Magic bytes, one column's pages, the first bytes of a page (its header), the footer, its length."""
    with pq.ParquetFile(path) as file:
        metadata = file.metadata
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    footer = size - 8 - int.from_bytes(path.read_bytes()[-8:-4], "little")
    regions = [(0, 4), (footer, size - 8), (footer, size - 8), (size - 8, size)]
    for column in columns:
        first = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        end = first + column.total_compressed_size
        regions += [(first, end)] if end > first else []
        regions += [(column.data_page_offset, min(column.data_page_offset + 20, end))] * (end > first)
    pages_end = max((end for _, end in regions[4:]), default=4)
    if footer > pages_end:
        regions.append((pages_end, footer))
    return regions
