"""Every name that the file system can hold: in corpora, for lakes, and for outputs. On real directories."""

import gzip
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from logitlake.pipeline.corpus.document import Document
from logitlake.pipeline.settings.models import CorpusSettings
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.export import export_rows
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.sql.client_setup import client_lines
from logitlake.storage.sql.session import ReadSession, query, write_parquet
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe
from tests.users_directory import RECIPE, RowMaker

MAX_BYTES = 255
HARD = [
    "'",
    '"',
    "%",
    "#",
    "?",
    "*",
    "[",
    "]",
    "\\",
    "\n",
    "\t",
    "\r",
    "\x01",
    "\x7f",
    " ",
    ";",
    "=",
    "&",
    ":",
    "{",
    "é",
    "🙂",
]
HARD_BYTES = [*map(str.encode, HARD), b"\xe9", b"\xff", b"\xed\xa0\x80", "\u202e".encode(), b"a", b"-", b"."]

raw_names = (
    st.one_of(st.lists(st.sampled_from(HARD_BYTES), min_size=1, max_size=12).map(b"".join), st.binary(min_size=1))
    .map(lambda name: name.replace(b"/", b"").replace(b"\0", b"")[:MAX_BYTES])
    .filter(lambda name: name not in (b"", b".", b".."))
)
names = raw_names.map(os.fsdecode)


def stored_and_shown(sources: list[str]) -> None:
    """Check that every table, log and terminal can hold the names, each on one line."""
    assert pa.array(sources, pa.string()).to_pylist() == sources
    assert json.loads(json.dumps(sources, ensure_ascii=False).encode()) == sources
    assert all(not set(source) & set("\n\r\t\x01\x1b\x7f") for source in sources)


@given(st.lists(names, min_size=1, max_size=5, unique_by=os.fsencode), names)
@example(["caf\udce9", "caf\\xe9", "caf\\udce9", "a\nb", "a\\nb"], "x" * MAX_BYTES)
@settings(max_examples=150, deadline=None)
def test_a_file_of_any_name_is_read_under_a_name_of_its_own(file_names: list[str], folder: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        directory = Path(root) / folder
        directory.mkdir()
        for number, name in enumerate(file_names):
            (directory / name).write_text(str(number))
        corpus = CorpusSettings(name="c", kind="text", path=root, glob=("**/*", "**/.*", ".*/**", ".*/.*"))
        items = list(corpus.read())
        assert all(isinstance(item, Document) for item in items)
        assert sorted(item.content for item in items) == [str(number) for number in range(len(file_names))]
        sources = [item.source for item in items]
        assert len(set(sources)) == len(sources)
        stored_and_shown(sources)


@given(names)
@settings(max_examples=60, deadline=None)
def test_rejects_and_every_kind_of_file_have_names_that_can_be_stored(name: str) -> None:
    name = name[:40].replace(".", "")
    with tempfile.TemporaryDirectory() as root:
        for suffix, content in ((".jsonl", b"{"), (".jsonl.gz", gzip.compress(b"{")), (".jsonl.zst", b"no zstd")):
            Path(root, f"n{name}{suffix}").write_bytes(content)
        with Path(root, f"n{name}.parquet").open("wb") as file:
            pq.write_table(pa.table({"body": ["x"]}), file)
        Path(root, f"l{name}.jsonl").symlink_to("/dev/zero")
        for kind, count in (("jsonl", 4), ("parquet", 1)):
            rejects = list(CorpusSettings(name="c", kind=kind, path=root).read())
            assert len(rejects) == count
            stored_and_shown([reject.source for reject in rejects])
            stored_and_shown([reject.detail for reject in rejects])


def lake_in(directory: Path, make_rows: RowMaker) -> tuple[LakeLocation, str]:
    """A lake of one unit in a directory, and its recipe."""
    location = LakeLocation.resolve(directory)
    with Lake.create(location, held_out_salt="s", held_out_share=0.0) as lake:
        recipe_id = register_recipe(lake, RECIPE)
        commit_unit(lake, make_rows([8, 12], recipe_id=recipe_id), recipe=RECIPE, run_id="run", seconds=1.0)
    return location, recipe_id


def check_lake(directory: Path, make_rows: RowMaker) -> None:
    """Check that a lake works there for readers of ours and for DuckDB alone, or is refused before it is made."""
    try:
        location, _ = lake_in(directory, make_rows)
    except SettingsError as refusal:
        assert "symbolic link" in str(refusal)
        assert list(directory.iterdir()) == []
        return
    assert query(location, "SELECT count(*) AS n FROM sequences").to_pylist() == [{"n": 2}]
    with duckdb.connect() as client:
        client.execute("\n".join(client_lines(location)))
        assert client.execute("SELECT count(*) FROM sequences").fetchall() == [(2,)]


@pytest.mark.parametrize(
    "name", ['it\'s "100%" #a;b', "a\nb", "é🙂", "a?b", "back\\slash", "caf\udce9", "x" * MAX_BYTES]
)
def test_a_lake_in_a_directory_of_a_hard_name_works_or_is_refused_and_a_link_helps(
    tmp_path: Path, make_rows: RowMaker, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / name)
    check_lake(tmp_path / name, make_rows)
    assert LakeLocation.resolve(tmp_path / "link").catalog_file is not None
    if not any((tmp_path / name).iterdir()):
        check_lake(tmp_path / "link", make_rows)
        assert (tmp_path / name / "catalog.sqlite").exists()


@pytest.mark.slow
@given(name=names)
@settings(max_examples=40, deadline=None)
def test_a_lake_in_a_directory_of_any_name_works_or_is_refused(make_rows: RowMaker, name: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / name).mkdir()
        check_lake(Path(root) / name, make_rows)


@pytest.fixture(scope="module")
def plain_lake(tmp_path_factory: pytest.TempPathFactory, make_rows: RowMaker) -> Any:
    """A lake that is only read, and its rows."""
    location, recipe_id = lake_in(tmp_path_factory.mktemp("lake"), make_rows)
    with Lake.open(location) as lake, ReadSession(location) as session:
        yield lake, resolve_row_set(lake, recipe_id=recipe_id), session


@given(name=names)
@example(name="x" * MAX_BYTES)
@settings(max_examples=25, deadline=None)
def test_outputs_of_any_name_are_written_there_and_nothing_else(plain_lake: Any, name: str) -> None:
    lake, rows, session = plain_lake
    with tempfile.TemporaryDirectory() as root:
        assert write_parquet(session, "SELECT 1 AS one", Path(root) / name) == 1
        with (Path(root) / name).open("rb") as file:
            assert pq.read_table(file).to_pylist() == [{"one": 1}]
        assert [path.name for path in Path(root).iterdir()] == [name]
        (Path(root) / name).unlink()
        export_rows(lake, rows, Path(root) / name)
        assert [path.name for path in Path(root).iterdir()] == [name]
        assert (Path(root) / name / "data" / "part-00000.parquet").stat().st_size > 0
