"""A repair of a lake whose catalog is on a server, whose data is in a bucket, or both: as on a local disk."""

from pathlib import Path

import pyarrow as pa
import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import connect, list_paths, put_bytes, read_all
from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.repair.repair import repair
from logitlake.storage.verification.inspection import inspect
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe
from tests.integration.test_catalogs import RECIPE, _rows

pytestmark = pytest.mark.slow


@pytest.fixture(params=["server", "bucket", "server and bucket"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> LakeLocation:
    catalog = request.getfixturevalue("postgres") if "server" in request.param else None
    data = request.getfixturevalue("s3_data") if "bucket" in request.param else str(tmp_path / "data")
    return LakeLocation.resolve(tmp_path / "lake", catalog, data)


def _make(location: LakeLocation) -> None:
    with Lake.create(location, held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        for names in (("a", "b"), ("c",)):
            commit_unit(lake, _rows(*names), recipe=RECIPE, run_id="run", seconds=1.0)


def _cut(location: LakeLocation, table: str, *, hold: str | None = None) -> str:
    """Cut a file of a table in the middle: of `sequences` the one that holds a document. Returns its path."""
    paths = list_paths(location, f"store/{table}/**/*.parquet")
    with connect(location) as connection:
        if hold is not None:
            (paths,) = [
                [path]
                for path in paths
                if connection.execute("SELECT count(*) FROM read_parquet(?) WHERE doc_id = ?", [path, hold]).fetchone()
                != (0,)
            ]
        path = paths[0]
    name = path.removeprefix(location.data)
    content = read_all(location, name)[path]
    put_bytes(location, name, content[: len(content) // 2])
    return path


def _held(lake: Lake) -> list[str]:
    return sorted(lake.sql("SELECT doc_id FROM store.sequences")["doc_id"].to_pylist())


def test_a_torn_shard_costs_its_documents_and_the_next_capture_brings_them_back(location: LakeLocation) -> None:
    _make(location)
    path = _cut(location, "sequences", hold=document_id("c"))
    with Lake.open(location, read_only=False) as lake:
        assert not inspect(lake).is_clean
        foreseen = repair(lake, dry_run=True)
        report = repair(lake)
        assert report.problems == []
        assert [(lost.doc_id, lost.recipe_id) for lost in report.documents] == [
            (lost.doc_id, lost.recipe_id) for lost in foreseen.documents
        ]
        assert [lost.doc_id for lost in report.documents] == [document_id("c")]
        assert [file.file for file in report.files] == [path]
        assert inspect(lake).is_clean
        assert _held(lake) == sorted(map(document_id, "ab"))
        commit_unit(lake, _rows("c"), recipe=RECIPE, run_id="again", seconds=1.0)
        assert inspect(lake).is_clean and _held(lake) == sorted(map(document_id, "abc"))
        copies: pa.ChunkedArray = lake.sql("SELECT count(*) AS n FROM store.damage")["n"]
        assert copies.to_pylist() == [0]
    copied = [copy for copy in list_paths(location, "damaged/**") if copy == report.files[0].copy]
    assert copied, "the damaged bytes are kept"


@pytest.mark.parametrize("table", ["documents", "recipes", "commits"])
def test_a_torn_small_table_is_mended_or_what_is_lost_is_named(location: LakeLocation, table: str) -> None:
    _make(location)
    _cut(location, table)
    with Lake.open(location, read_only=False) as lake:
        assert not inspect(lake).is_clean
        report = repair(lake)
        assert report.problems == []
        found = inspect(lake)
        assert found.is_clean, (found.damaged_tables, found.damaged_units)
        assert _held(lake) == sorted(map(document_id, "abc"))
        assert table in report.restored or any(removed.table == table for removed in report.removed)
