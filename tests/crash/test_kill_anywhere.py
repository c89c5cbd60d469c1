"""Kill it anywhere: nothing lost, nothing twice, nothing torn.

A child process commits units and is killed without any clean-up at a named place; then the lake is opened, checked, and
the same work is done again.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE, FAILPOINTS
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.upkeep.rebuild import rebuild
from logitlake.storage.upkeep.verify import verify

UNITS = 3

CHILD = """
import sys
from pathlib import Path

import pyarrow as pa

from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.identity import document_id, recipe_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.writing.recipes import register_recipe
from logitlake.storage.lake.schema import SEQUENCES

directory, n_units = Path(sys.argv[1]), int(sys.argv[2])
recipe = {"teacher": {"name": "tiny"}, "tokenizer": "t", "sparsifier": {"name": "varopt"}, "temperature": 1.0}
shared = {
    "recipe_id": recipe_id(recipe), "unit_id": "", "corpus": "c", "window_index": 0, "start": 0, "n_tokens": 2,
    "n_targets": 1, "levels": 64, "input_ids": [1, 2], "target_ids": [[2, 3], []], "head_codes": [[60], []],
    "entropy_codes": [1, None], "nll_codes": [1, None], "mean_entropy": 0.1, "mean_nll": 0.1, "checksum": "",
}
with Lake.create(LakeLocation.resolve(directory), held_out_salt="s", held_out_share=0.0) as lake:
    register_recipe(lake, recipe)
    for unit in range(n_units):
        names = [f"{unit}-{number}" for number in range(4)]
        rows = [{**shared, "doc_id": document_id(name), "source": name} for name in names]
        commit_unit(lake, pa.Table.from_pylist(rows, SEQUENCES), recipe=recipe, run_id="run", seconds=1.0)
"""


def _run(directory: Path, units: int, kill_at: str | None = None) -> int:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    environment.pop(ENVIRONMENT_VARIABLE, None)
    if kill_at:
        environment[ENVIRONMENT_VARIABLE] = kill_at
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(directory), str(units)], env=environment, capture_output=True, text=True
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def _counts(lake: Lake) -> tuple[int, int, int]:
    row = lake.row(
        """
        SELECT
            (SELECT count(*) FROM sequences) AS sequences,
            (SELECT count(DISTINCT doc_id) FROM sequences) AS documents,
            (SELECT count(*) FROM store.documents) AS registered
        """
    )
    return row["sequences"], row["documents"], row["registered"]


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_killed_commit_is_there_or_not_there_and_a_second_run_completes_it(tmp_path, failpoint):
    directory = tmp_path / "lake"
    assert _run(directory, 1) == 0
    assert _run(directory, UNITS, kill_at=failpoint) == -signal.SIGKILL
    with Lake.open(LakeLocation.resolve(directory)) as lake:
        sequences, documents, registered = _counts(lake)
        assert sequences == documents == registered and sequences in (4, 8)
        assert all(not check.problem for check in verify(lake))
    assert _run(directory, UNITS) == 0
    with Lake.open(LakeLocation.resolve(directory)) as lake:
        assert _counts(lake) == (4 * UNITS,) * 3
        assert all(not check.problem for check in verify(lake))


def test_a_rebuild_after_a_kill_takes_every_document_once(tmp_path):
    """Killed with the shard in place and not registered: the file is a whole one, and its rows are taken once."""
    directory = tmp_path / "lake"
    assert _run(directory, 1) == 0
    assert _run(directory, UNITS, kill_at="rows-registered") == -signal.SIGKILL
    for file in directory.glob("catalog.sqlite*"):
        file.unlink()
    location = LakeLocation.resolve(directory)
    report = rebuild(location)
    assert report.skipped == {}
    assert _run(directory, UNITS) == 0
    with Lake.open(location) as lake:
        assert _counts(lake) == (4 * UNITS,) * 3


@pytest.mark.slow
def test_many_kills_at_any_moment_lose_nothing_and_double_nothing(tmp_path):
    """Killed after a random time, again and again, until a run gets through."""
    directory = tmp_path / "lake"
    assert _run(directory, 1) == 0
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    for tenths in (6, 8, 9, 10, 11, 12, 13, 14, 16, 20):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(directory), "40"], env=environment)
        try:
            child.wait(timeout=tenths / 10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        with Lake.open(LakeLocation.resolve(directory)) as lake:
            sequences, documents, registered = _counts(lake)
            assert sequences == documents == registered and sequences % 4 == 0
    assert _run(directory, 40) == 0
    with Lake.open(LakeLocation.resolve(directory)) as lake:
        assert _counts(lake) == (160,) * 3
        assert all(not check.problem for check in verify(lake))
