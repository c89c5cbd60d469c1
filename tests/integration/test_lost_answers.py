"""The answer to a COMMIT on PostgreSQL is lost: what landed keeps its files and is found by its id, and nothing is done
twice."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeError, UnreachableError
from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.upkeep.compaction import compact, merge_small_tables, plan_compaction
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.verification.verify import verify, verify_tables
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe
from logitlake.storage.writing.runs import note_run
from tests.integration.cutting_proxy import proxy_to
from tests.integration.test_catalogs import RECIPE, _rows

pytestmark = pytest.mark.slow

OPERATIONS: dict[str, Callable[[Lake], Any]] = {
    "commit": lambda lake: commit_unit(lake, _rows("x"), recipe=RECIPE, run_id="run", seconds=1.0),
    "forget": lambda lake: forget(lake, [document_id("a")], reason="asked"),
    "compact": lambda lake: [compact(lake, merge) for merge in plan_compaction(lake, target_bytes=1 << 30)],
    "merge the small tables": merge_small_tables,
}


@contextmanager
def _through_a_proxy(tmp_path: Path, postgres: str, data: str) -> Iterator[tuple[LakeLocation, LakeLocation, Any]]:
    """A lake of three documents, its place behind a proxy, and what makes the proxy cut."""
    port = int(re.findall(r"port=([0-9]+)", postgres)[0])
    location = LakeLocation.resolve(tmp_path / "lake", postgres, data)
    with Lake.create(location, held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        for names in (("a", "b"), ("c",)):
            commit_unit(lake, _rows(*names), recipe=RECIPE, run_id="run", seconds=1.0)
    with proxy_to(port) as (proxy_port, cut):
        through = postgres.replace(f"port={port}", f"port={proxy_port}")
        yield location, LakeLocation.resolve(tmp_path / "lake", through, data), cut


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


@pytest.mark.parametrize("fate", ["landed", "lost"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_whose_commit_gets_no_answer_is_done_once(tmp_path, postgres, name, fate):
    with (
        _through_a_proxy(tmp_path, postgres, str(tmp_path / "data")) as (location, through, cut),
        Lake.open(through, read_only=False) as lake,
    ):
        cut(fate)
        try:
            done = OPERATIONS[name](lake)
        except UnreachableError:
            # Upkeep is not repeated by itself: the next one does it.
            assert (name, fate) in {("compact", "lost"), ("merge the small tables", "lost")}
        else:
            assert name != "commit" or (done.n_documents, done.n_sequences) == (1, 1)
            assert name != "forget" or done.n_sequences == 1
    _is_whole(location, OPERATIONS[name], name)


@pytest.mark.parametrize("name", ["commit", "forget"])
def test_an_operation_whose_commit_gets_no_answer_keeps_its_objects_in_a_bucket(tmp_path, postgres, s3_data, name):
    with (
        _through_a_proxy(tmp_path, postgres, s3_data) as (location, through, cut),
        Lake.open(through, read_only=False) as lake,
    ):
        cut("landed")
        OPERATIONS[name](lake)
    _is_whole(location, OPERATIONS[name], name)


@pytest.mark.parametrize("name", ["commit", "forget"])
def test_a_commit_whose_server_stays_away_keeps_its_files_and_is_found_by_the_next_run(tmp_path, postgres, name):
    with (
        _through_a_proxy(tmp_path, postgres, str(tmp_path / "data")) as (location, through, cut),
        Lake.open(through, read_only=False, lock_timeout=1.0) as lake,
    ):
        cut("away")
        with pytest.raises(LakeError, match="may have landed"):
            OPERATIONS[name](lake)
    _is_whole(location, OPERATIONS[name], name)


def test_writers_that_lose_answers_while_others_commit_store_every_document_once(tmp_path, postgres):
    """The number of a lost commit is taken by others at once, and its answer is looked for among theirs."""
    with _through_a_proxy(tmp_path, postgres, str(tmp_path / "data")) as (location, through, cut):
        errors: list[BaseException] = []

        def work(first: int) -> None:
            try:
                with Lake.open(through, read_only=False) as mine:
                    for unit in range(first, first + 6):
                        if unit % 3 == 0:
                            cut(("landed", "lost")[unit % 2])
                        names = [f"document {number}" for number in (unit, unit + 1)]
                        commit_unit(mine, _rows(*names), recipe=RECIPE, run_id="run", seconds=1.0)
                        note_run(mine, f"run {first} {unit}", "finished", kind="capture", recipe_id=None)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(first,)) for first in (0, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
    with Lake.open(location) as lake:
        counts = lake.sql("SELECT count(*) AS n, count(DISTINCT doc_id) AS d FROM store.sequences").to_pylist()
        assert counts == [{"n": 12, "d": 12}]
        assert lake.row("SELECT count(*) AS n FROM store.run_events")["n"] == 12
        assert [check.problem for check in (*verify_tables(lake), *verify(lake)) if check.problem] == []


def test_a_lake_whose_creation_landed_without_an_answer_is_there(tmp_path, postgres):
    port = int(re.findall(r"port=([0-9]+)", postgres)[0])
    data = str(tmp_path / "data")
    with proxy_to(port) as (proxy_port, cut):
        cut("landed")
        through = postgres.replace(f"port={port}", f"port={proxy_port}")
        Lake.create(
            LakeLocation.resolve(tmp_path / "lake", through, data), held_out_salt="s", held_out_share=0.0
        ).close()
    with Lake.open(LakeLocation.resolve(tmp_path / "lake", postgres, data), read_only=False) as lake:
        register_recipe(lake, RECIPE)
        assert commit_unit(lake, _rows("a"), recipe=RECIPE, run_id="run", seconds=1.0).n_documents == 1
        assert [check.problem for check in (*verify_tables(lake), *verify(lake)) if check.problem] == []
