"""The answer to a COMMIT on PostgreSQL is lost though the commit landed: nothing that the catalog names is removed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeError
from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.upkeep.compaction import compact, merge_small_tables, plan_compaction
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.verification.verify import verify, verify_tables
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe
from tests.integration.cutting_proxy import proxy_to
from tests.integration.test_catalogs import RECIPE, _rows

pytestmark = pytest.mark.slow

OPERATIONS: dict[str, Callable[[Lake], Any]] = {
    "commit": lambda lake: commit_unit(lake, _rows("x"), recipe=RECIPE, run_id="run", seconds=1.0),
    "forget": lambda lake: forget(lake, [document_id("a")], reason="asked"),
    "compact": lambda lake: [compact(lake, merge) for merge in plan_compaction(lake, target_bytes=1 << 30)],
    "merge the small tables": merge_small_tables,
}


def _lose_an_answer(tmp_path: Path, postgres: str, data: str, operation: Callable[[Lake], Any]) -> LakeLocation:
    """A lake of three documents, and the operation whose first commit lands without an answer."""
    port = int(re.findall(r"port=([0-9]+)", postgres)[0])
    location = LakeLocation.resolve(tmp_path / "lake", postgres, data)
    with Lake.create(location, held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        for names in (("a", "b"), ("c",)):
            commit_unit(lake, _rows(*names), recipe=RECIPE, run_id="run", seconds=1.0)
    with proxy_to(port) as (proxy_port, cut):
        through = LakeLocation.resolve(tmp_path / "lake", postgres.replace(f"port={port}", f"port={proxy_port}"), data)
        with Lake.open(through, read_only=False) as lake:
            cut()
            with pytest.raises(LakeError, match="may have landed"):
                operation(lake)
    return location


def _is_whole(location: LakeLocation, operation: Callable[[Lake], Any], name: str) -> None:
    """Every file that the catalog names is there, and the operation can be repeated."""
    names = {"a", "b", "c"} - ({"a"} if name == "forget" else set()) | ({"x"} if name == "commit" else set())
    with Lake.open(location, read_only=False) as lake:
        for _ in range(2):
            assert [check.problem for check in verify_tables(lake) if check.problem] == []
            assert [check.problem for check in verify(lake) if check.problem] == []
            held = lake.sql("SELECT doc_id FROM store.sequences")["doc_id"].to_pylist()
            assert sorted(held) == sorted(map(document_id, names))
            operation(lake)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_commit_that_landed_without_an_answer_keeps_its_files(tmp_path, postgres, name):
    location = _lose_an_answer(tmp_path, postgres, str(tmp_path / "data"), OPERATIONS[name])
    _is_whole(location, OPERATIONS[name], name)


@pytest.mark.parametrize("name", ["commit", "forget"])
def test_a_commit_that_landed_without_an_answer_keeps_its_objects_in_a_bucket(tmp_path, postgres, s3_data, name):
    location = _lose_an_answer(tmp_path, postgres, s3_data, OPERATIONS[name])
    _is_whole(location, OPERATIONS[name], name)


def test_a_lake_whose_creation_landed_without_an_answer_is_there(tmp_path, postgres):
    port = int(re.findall(r"port=([0-9]+)", postgres)[0])
    data = str(tmp_path / "data")
    with proxy_to(port) as (proxy_port, cut):
        cut()
        through = postgres.replace(f"port={port}", f"port={proxy_port}")
        Lake.create(
            LakeLocation.resolve(tmp_path / "lake", through, data), held_out_salt="s", held_out_share=0.0
        ).close()
    with Lake.open(LakeLocation.resolve(tmp_path / "lake", postgres, data), read_only=False) as lake:
        register_recipe(lake, RECIPE)
        assert commit_unit(lake, _rows("a"), recipe=RECIPE, run_id="run", seconds=1.0).n_documents == 1
        assert [check.problem for check in (*verify_tables(lake), *verify(lake)) if check.problem] == []
