"""Whatever replaces something is killed at each named place by each signal: nothing is lost.

After the kill the lake is verified, maintained with no grace, rebuilt from its data path alone, and still holds the
same documents.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.failpoints import (
    ENVIRONMENT_VARIABLE,
    FAILPOINTS,
    REBUILD_FAILPOINTS,
    REPAIR_FAILPOINTS,
    SIGNAL_VARIABLE,
)
from logitlake.storage.identity import document_id, recipe_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.repair.repair import repair
from logitlake.storage.schema.sequences import SEQUENCES
from logitlake.storage.students.promotions import promote, roll_back
from logitlake.storage.upkeep.compaction import compact, merge_small_tables, plan_compaction
from logitlake.storage.upkeep.forgetting import forget, forget_again
from logitlake.storage.upkeep.sweeping import sweep
from logitlake.storage.verification.history import examine, unknown_files
from logitlake.storage.verification.verify import verify, verify_tables
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe
from logitlake.storage.writing.runs import note_run

RECIPE = {"teacher": {"name": "tiny"}, "tokenizer": "t", "sparsifier": {"name": "varopt"}, "temperature": 1.0}
NAMES = ["a", "b", "c", "d", "e", "f"]
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
CHILD = """
import sys
from datetime import timedelta
from pathlib import Path

from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.upkeep.compaction import compact, merge_small_tables, plan_compaction
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.repair.repair import repair
from logitlake.storage.students.promotions import promote
from logitlake.storage.upkeep.sweeping import sweep
from tests.crash.test_kill_upkeep import commit

location = LakeLocation.resolve(Path(sys.argv[1]))
if sys.argv[2] == "rebuild":
    rebuild(location)
else:
    with Lake.open(location, read_only=False) as lake:
        if sys.argv[2] == "commit":
            commit(lake, sys.argv[3:] or ["x"], run_id="late run")
        elif sys.argv[2] == "compact":
            for merge in plan_compaction(lake, target_bytes=1 << 30):
                compact(lake, merge)
            merge_small_tables(lake)
            sweep(lake, grace=timedelta(0))
        elif sys.argv[2] == "forget":
            forget(lake, [document_id("f")], reason="asked")
        elif sys.argv[2] == "repair":
            repair(lake)
        elif sys.argv[2] == "promote":
            promote(lake, sys.argv[3], expected=sys.argv[4], figures={}, run_id="run")
"""


def commit(lake: Lake, names: list[str], *, run_id: str) -> None:
    """Commit one unit as a capture does, which notes first that it has started."""
    shared = {
        "recipe_id": recipe_id(RECIPE),
        "unit_id": "",
        "corpus": "c",
        "window_index": 0,
        "start": 0,
        "n_tokens": 2,
    }
    shared |= {"n_targets": 1, "levels": 64, "input_ids": [1, 2], "target_ids": [[2, 3], []]}
    shared |= {"head_codes": [[60], []], "entropy_codes": [1, None], "nll_codes": [1, None], "checksum": ""}
    shared |= {"mean_entropy": 0.1, "mean_nll": 0.1}
    rows = [{**shared, "doc_id": document_id(name), "source": name} for name in names]
    note_run(lake, run_id, "started", kind="capture", recipe_id=recipe_id(RECIPE))
    commit_unit(lake, pa.Table.from_pylist(rows, SEQUENCES), recipe=RECIPE, run_id=run_id, seconds=1.0)


@pytest.fixture(scope="module")
def three_units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("three units") / "lake"
    with Lake.create(LakeLocation.resolve(directory), held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        for first in range(0, 6, 2):
            commit(lake, NAMES[first : first + 2], run_id="run")
    return directory


@pytest.fixture
def location(three_units: Path, tmp_path: Path) -> LakeLocation:
    return LakeLocation.resolve(Path(shutil.copytree(three_units, tmp_path / "lake")))


def kill(location: LakeLocation, operation: str, failpoint: str, name: str, *arguments: str) -> None:
    """Run an operation in a child that gets the signal at the place."""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    environment |= {ENVIRONMENT_VARIABLE: failpoint, SIGNAL_VARIABLE: name}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(location.state_directory), operation, *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.Signals[name], (done.returncode, done.stderr)


def lose_the_catalog(location: LakeLocation) -> None:
    for file in location.state_directory.glob("catalog.sqlite*"):
        file.unlink()


def is_whole(lake: Lake, names: list[str]) -> None:
    """Exactly these documents, intact, and no commit in the data path that the catalog does not know."""
    assert [check.problem for check in verify(lake) if check.problem] == []
    assert [check.problem for check in verify_tables(lake) if check.problem] == []
    assert examine(lake, unknown_files(lake)).missing == []
    held = lake.sql("SELECT doc_id FROM store.sequences")["doc_id"].to_pylist()
    assert sorted(held) == sorted(map(document_id, names))


def upkeep_loses_nothing(location: LakeLocation, names: list[str]) -> None:
    """Two hours later: upkeep without any grace, and a rebuild from what it has left."""
    two_hours_ago = time.time() - 7200
    for path in location.data_directory.rglob("*"):
        os.utime(path, (two_hours_ago, two_hours_ago))
    with Lake.open(location, read_only=False) as lake:
        forget_again(lake)
        for merge in plan_compaction(lake, target_bytes=1 << 30):
            assert compact(lake, merge) is not None
        merge_small_tables(lake)
        assert sweep(lake, grace=timedelta(0)).damaged_files == ()
        is_whole(lake, names)
    lose_the_catalog(location)
    assert rebuild(location).damaged == {}
    with Lake.open(location) as lake:
        is_whole(lake, names)


def _cases() -> list[object]:
    """Each operation at each of its places by each signal; one case is quick."""
    places = {
        "rebuild": (*REBUILD_FAILPOINTS, "transaction-open", "rows-registered"),
        "compact": (*FAILPOINTS, "snapshots-expired", "files-removed"),
        "forget": FAILPOINTS,
        "commit": ("file-staged", "file-renamed", "transaction-open:2", "rows-registered:2", "committed:2"),
    }
    quick = {("compact", "rows-registered", "SIGKILL")}
    cases = [(operation, place, name) for operation, all_of in places.items() for place in all_of for name in SIGNALS]
    return [pytest.param(*case, marks=() if case in quick else pytest.mark.slow) for case in cases]


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "failpoint", "name"), _cases())
def test_a_killed_operation_loses_nothing(location: LakeLocation, operation: str, failpoint: str, name: str) -> None:
    if operation == "rebuild":
        with Lake.open(location, read_only=False) as lake:
            forget(lake, [document_id("f")], reason="asked")
        lose_the_catalog(location)
    kill(location, operation, failpoint, name)
    committed = failpoint.startswith("committed")
    # `forget` writes its tombstone first: once it is there, the document is forgotten at the next upkeep.
    tombstones = list(location.data_directory.glob("tombstones/*.json"))
    names = [*NAMES[:-1], *(() if tombstones else "f"), *("x" if operation == "commit" and committed else ())]
    if operation == "rebuild":
        assert location.catalog_file.exists() == (failpoint == "catalog-renamed")
        if failpoint != "catalog-renamed":
            rebuild(location)
        assert not list(location.state_directory.glob("*.rebuild"))
    elif not tombstones:
        with Lake.open(location) as lake:
            is_whole(lake, names)
    upkeep_loses_nothing(location, names)


def tear(location: LakeLocation) -> None:
    """Cut the shard of `a` and `b`, break the pages of that of `c` and `d`, and cut a file of commits."""
    with Lake.open(location) as lake:
        rows = lake.sql("SELECT DISTINCT filename, doc_id FROM store.sequences").to_pylist()
        commits = lake.sql("SELECT DISTINCT filename FROM store.commits ORDER BY ALL")["filename"].to_pylist()
    by_document = {row["doc_id"]: Path(row["filename"]) for row in rows}
    for path in (by_document[document_id("a")], Path(commits[-1])):
        path.write_bytes(path.read_bytes()[:100])
    path = by_document[document_id("c")]
    content = bytearray(path.read_bytes())
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[4:end] = b"\xff" * (end - 4)
    path.write_bytes(content)


_REPAIR_PLACES = (*REPAIR_FAILPOINTS, "file-ended:2", "file-staged", "file-renamed:2")
_REPAIR_PLACES += (
    "transaction-open",
    "rows-registered",
    "committed",
    "rows-registered:2",
    "committed:2",
    "committed:3",
)


@pytest.mark.parametrize(
    ("failpoint", "name"),
    [
        pytest.param(place, name, marks=() if (place, name) == ("file-ended", "SIGKILL") else pytest.mark.slow)
        for place in _REPAIR_PLACES
        for name in SIGNALS
    ],
)
def test_a_killed_repair_is_completed_by_the_next(location: LakeLocation, failpoint: str, name: str) -> None:
    tear(location)
    kill(location, "repair", failpoint, name)
    with Lake.open(location, read_only=False) as lake:
        assert repair(lake).problems == []
        is_whole(lake, ["e", "f"])
        assert repair(lake).is_clean
        assert lake.row("SELECT count(DISTINCT doc_id) AS n FROM sequences")["n"] == 2
        commit(lake, ["a", "b", "c", "d"], run_id="again")
        is_whole(lake, NAMES)
        assert lake.row("SELECT count(DISTINCT doc_id) AS n FROM sequences")["n"] == 6


@pytest.mark.parametrize(
    ("killed", "afterwards"),
    [("x", "x"), pytest.param("x", "xy", marks=pytest.mark.slow), pytest.param("xz", "xy", marks=pytest.mark.slow)],
    ids=["the same unit", "a larger unit", "a unit of which it held a part"],
)
def test_a_killed_commit_that_was_done_again_counts_once_after_a_rebuild(
    location: LakeLocation, killed: str, afterwards: str
) -> None:
    kill(location, "commit", "rows-registered:2", "SIGKILL", *killed)
    with Lake.open(location, read_only=False) as lake:
        commit(lake, list(afterwards), run_id="later run")
    lose_the_catalog(location)
    assert rebuild(location).damaged == {}
    with Lake.open(location) as lake:
        is_whole(lake, sorted({*NAMES, *killed, *afterwards}))
        counted = lake.row("SELECT sum(n_documents) AS documents, sum(n_tokens) AS tokens FROM store.commits")
        held = lake.row("SELECT count(*) AS documents, sum(n_tokens) AS tokens FROM store.documents")
        assert counted == held


@pytest.mark.slow
def test_a_killed_promotion_that_was_done_again_is_one_decision_after_a_rebuild(location: LakeLocation) -> None:
    with Lake.open(location, read_only=False) as lake:
        promote(lake, "one", expected=None, figures={}, run_id="run")
    kill(location, "promote", "rows-registered", "SIGKILL", "two", "one")
    with Lake.open(location, read_only=False) as lake:
        note_run(lake, "run", "started", kind="redistill", recipe_id=None)
        promote(lake, "two", expected="one", figures={}, run_id="run")
    lose_the_catalog(location)
    rebuild(location)
    with Lake.open(location, read_only=False) as lake:
        assert lake.row("SELECT count(*) AS n FROM promotions")["n"] == 2
        assert roll_back(lake, expected="two", run_id="run") == "one"
