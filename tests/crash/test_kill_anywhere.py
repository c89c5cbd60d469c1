"""Kill it anywhere: nothing lost, nothing twice, nothing torn.

A child process commits units and is killed without any clean-up at a named place; then the lake is opened, checked, and
the same work is done again.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE, FAILPOINTS
from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.verification.verify import verify

UNITS = 3

CHILD = """
import sys
from pathlib import Path

import pyarrow as pa

from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.identity import document_id, recipe_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.writing.recipes import register_recipe
from logitlake.storage.schema.sequences import SEQUENCES

directory, first, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
recipe = {"teacher": {"name": "tiny"}, "tokenizer": "t", "sparsifier": {"name": "varopt"}, "temperature": 1.0}
shared = {
    "recipe_id": recipe_id(recipe), "unit_id": "", "corpus": "c", "window_index": 0, "start": 0, "n_tokens": 2,
    "n_targets": 1, "levels": 64, "input_ids": [1, 2], "target_ids": [[2, 3], []], "head_codes": [[60], []],
    "entropy_codes": [1, None], "nll_codes": [1, None], "mean_entropy": 0.1, "mean_nll": 0.1, "checksum": "",
}
with Lake.create(LakeLocation.resolve(directory), held_out_salt="s", held_out_share=0.0) as lake:
    register_recipe(lake, recipe)
    for unit in range(first, end):
        names = [f"{unit}-{number}" for number in range(4)]
        rows = [{**shared, "doc_id": document_id(name), "source": name} for name in names]
        commit_unit(lake, pa.Table.from_pylist(rows, SEQUENCES), recipe=recipe, run_id="run", seconds=1.0)
        print(unit, flush=True)
"""


@pytest.fixture(scope="module")
def one_unit(tmp_path_factory):
    """A lake with the first unit."""
    directory = tmp_path_factory.mktemp("one unit") / "lake"
    assert _run(directory, 1) == 0
    return directory


@pytest.fixture
def directory(one_unit, tmp_path):
    """A copy of that lake."""
    return Path(shutil.copytree(one_unit, tmp_path / "lake"))


def _start(directory: Path, units: int, *, first: int = 0, kill_at: str = "") -> "subprocess.Popen[str]":
    """A child that commits the units from `first` to `units` and prints the number of each when it is committed."""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), ENVIRONMENT_VARIABLE: kill_at}
    command = [sys.executable, "-c", CHILD, str(directory), str(first), str(units)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _run(directory: Path, units: int, *, first: int = 0, kill_at: str = "") -> int:
    with _start(directory, units, first=first, kill_at=kill_at) as child:
        _, errors = child.communicate()
    assert child.returncode in (0, -signal.SIGKILL), errors
    return child.returncode


def _is_whole(lake: Lake, units: int) -> None:
    """Exactly the rows of the first units, each once, and nothing of any other."""
    rows = lake.sql("SELECT doc_id, source, input_ids, target_ids, head_codes FROM store.sequences").to_pylist()
    names = {document_id(f"{unit}-{number}"): f"{unit}-{number}" for unit in range(units) for number in range(4)}
    content = {"input_ids": [1, 2], "target_ids": [[2, 3], []], "head_codes": [[60], []]}
    expected = [{"doc_id": doc_id, "source": name} | content for doc_id, name in names.items()]
    assert sorted(rows, key=str) == sorted(expected, key=str)
    registered = lake.sql("SELECT doc_id FROM store.documents")["doc_id"].to_pylist()
    assert sorted(registered) == sorted(names)
    assert all(not check.problem for check in verify(lake))


QUICK = ("rows-registered",)


@pytest.mark.parametrize(
    "failpoint", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAILPOINTS]
)
def test_a_killed_commit_is_there_or_not_there_and_a_second_run_completes_it(directory, failpoint):
    """It is killed while it commits the second unit, which the lake does not hold yet."""
    assert _run(directory, UNITS, first=1, kill_at=failpoint) == -signal.SIGKILL
    with Lake.open(LakeLocation.resolve(directory)) as lake:
        _is_whole(lake, 2 if failpoint == "committed" else 1)
    assert _run(directory, UNITS) == 0
    with Lake.open(LakeLocation.resolve(directory)) as lake:
        _is_whole(lake, UNITS)


@pytest.mark.slow
def test_a_rebuild_after_a_kill_takes_every_document_once(directory):
    """Killed with the shard in place and not registered: the file is a whole one, and its rows are taken once."""
    assert _run(directory, UNITS, first=1, kill_at="rows-registered") == -signal.SIGKILL
    for file in directory.glob("catalog.sqlite*"):
        file.unlink()
    location = LakeLocation.resolve(directory)
    report = rebuild(location)
    assert report.skipped == {}
    with Lake.open(location) as lake:
        _is_whole(lake, 2)
    assert _run(directory, UNITS) == 0
    with Lake.open(location) as lake:
        _is_whole(lake, UNITS)


@pytest.mark.slow
def test_many_kills_while_units_are_committed_lose_nothing_and_double_nothing(directory):
    """Each child is killed within its next unit, at another moment of it, after it has told of three new units."""
    kills, seconds_into_a_unit, units = 10, 0.02, 40
    for kill in range(1, kills + 1):
        with _start(directory, units) as child:
            told = next(number for number in map(int, child.stdout) if number == 3 * kill)
            time.sleep(kill * seconds_into_a_unit)
            assert child.poll() is None, "the child was at work when it was killed"
            child.kill()
        with Lake.open(LakeLocation.resolve(directory)) as lake:
            committed = lake.row("SELECT count(*) // 4 AS n FROM store.documents")["n"]
            assert told + 1 <= committed < units, "what a child told of is kept, and it had not come to its end"
            _is_whole(lake, committed)
    assert _run(directory, units) == 0
    with Lake.open(LakeLocation.resolve(directory)) as lake:
        _is_whole(lake, units)
