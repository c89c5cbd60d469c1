"""A copy is the same lake, at every moment the old one or the new one, and nothing of its own is overwritten."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.copying.copy import copy_lake
from logitlake.storage.errors import IntegrityError, LakeBusyError, LakeError, LakeMissingError, SettingsError
from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE
from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.locks import single_writer
from logitlake.storage.schema.tables import TABLES
from logitlake.storage.upkeep.compaction import compact, plan_compaction
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.upkeep.sweeping import sweep
from logitlake.storage.verification.verify import verify, verify_tables
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe
from logitlake.storage.writing.runs import note_run
from tests.crash.contents import facts_of
from tests.crash.rows import made_rows, made_sources, recipe_of

RECIPE = recipe_of()


def _commit(location: LakeLocation, *names: str) -> None:
    with Lake.create(location, held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        rows = made_rows(list(names), RECIPE)
        commit_unit(lake, rows, recipe=RECIPE, run_id="run", seconds=1.0, sources=made_sources(list(names)))
        note_run(lake, "run", "finished", kind="capture", recipe_id=None)


def _content(location: LakeLocation) -> dict[str, list[str]]:
    """Every row of every table, as text."""
    with Lake.open(location) as lake:
        assert [check.problem for check in (*verify(lake), *verify_tables(lake)) if check.problem] == []
        return {name: sorted(map(str, lake.sql(f"FROM store.{name}").to_pylist())) for name in TABLES}


@pytest.fixture
def source(tmp_path: Path) -> LakeLocation:
    location = LakeLocation.resolve(tmp_path / "source")
    _commit(location, "a", "b")
    _commit(location, "c")
    return location


@pytest.fixture
def destination(tmp_path: Path) -> LakeLocation:
    return LakeLocation.resolve(tmp_path / "copy")


def test_a_copy_has_every_row_of_every_table_and_the_next_one_brings_only_what_is_new(source, destination):
    planned = copy_lake(source, destination, dry_run=True)
    assert not destination.data_directory.exists()
    assert copy_lake(source, destination) == planned
    assert planned.n_files == planned.n_files_in_all > 0
    assert _content(destination) == _content(source)
    assert copy_lake(source, destination).n_files == 0
    _commit(source, "d")
    again = copy_lake(source, destination)
    assert 0 < again.n_files < again.n_files_in_all
    assert _content(destination) == _content(source)


@pytest.mark.slow
def test_what_was_forgotten_in_the_lake_leaves_the_copy_and_its_disk(source, destination):
    copy_lake(source, destination)
    with Lake.open(source, read_only=False) as lake:
        forget(lake, [document_id("c")], reason="asked")
    report = copy_lake(source, destination)
    assert report.n_removed > 0
    assert _content(destination) == _content(source)
    forgotten = document_id("c").encode()
    shards = list(destination.data_directory.glob("store/sequences/**/*.parquet"))
    assert shards
    assert not any(forgotten in path.read_bytes() for path in shards)


@pytest.mark.slow
def test_forgotten_text_leaves_the_copys_disk_with_the_copy_that_follows_upkeep(source, destination):
    """The copy in between brings the tombstone while the shard still holds the text."""
    copy_lake(source, destination)
    with Lake.open(source, read_only=False) as lake:
        forget(lake, [document_id("a")], reason="asked")
    copy_lake(source, destination)
    with Lake.open(source, read_only=False) as lake:
        sweep(lake, grace=timedelta(0), forget_at_once=True)
        for merge in plan_compaction(lake, target_bytes=1 << 20):
            compact(lake, merge)
        sweep(lake, grace=timedelta(0), forget_at_once=True)
    copy_lake(source, destination)
    shards = list(destination.data_directory.glob("store/sequences/**/*.parquet"))
    assert shards
    assert not any(document_id("a").encode() in path.read_bytes() for path in shards)
    assert _content(destination) == _content(source)


def test_a_copy_removes_no_file_that_a_writer_has_just_made(source, destination):
    """Its commit at the destination may follow: the listing of files is older than the commit."""
    copy_lake(source, destination)
    young, old = (destination.data_directory / "store" / "sequences" / f"{name}.parquet" for name in ("young", "old"))
    for path in (young, old):
        shutil.copy(next(destination.data_directory.rglob("*.parquet")), path)
    os.utime(old, (0, 0))
    assert copy_lake(source, destination).n_removed == 1
    assert (young.exists(), old.exists()) == (True, False)


@pytest.mark.parametrize("task", ["capture", "copy"])
def test_no_capture_and_no_other_copy_may_write_at_an_embedded_destination_meanwhile(source, destination, task):
    with single_writer(destination, task), pytest.raises(LakeBusyError, match=f"another {task} is running"):
        copy_lake(source, destination)
    assert copy_lake(source, destination).n_files > 0


def test_a_lake_that_another_copy_made_meanwhile_is_not_overwritten(source, destination, monkeypatch):
    # A destination on PostgreSQL has no lock.
    monkeypatch.setattr("logitlake.storage.copying.copy.single_writer", lambda location, task: nullcontext())

    def make_a_lake(done: int, total: int) -> None:
        if done == total:
            copy_lake(source, destination)
            _commit(destination, "e")

    with pytest.raises(LakeError, match="was changed during the copy: nothing was overwritten"):
        copy_lake(source, destination, on_file=make_a_lake)
    assert document_id("e") in str(_content(destination)["documents"])


@pytest.mark.slow
def test_a_destination_with_commits_of_its_own_is_refused_and_unchanged(source, destination):
    copy_lake(source, destination)
    _commit(destination, "e")
    before = _content(destination)
    _commit(source, "f")
    for dry_run in (True, False):
        with pytest.raises(LakeError, match="commits of its own"):
            copy_lake(source, destination, dry_run=dry_run)
    assert _content(destination) == before


@pytest.mark.slow
def test_another_lake_is_never_overwritten(source, destination, tmp_path):
    _commit(destination, "e")
    with pytest.raises(LakeError, match="commits of its own, or is no copy"):
        copy_lake(source, destination)
    other = LakeLocation.resolve(tmp_path / "other")
    Lake.create(other, held_out_salt="other", held_out_share=0.0).close()
    third = LakeLocation.resolve(tmp_path / "third")
    copy_lake(source, third)
    with pytest.raises(LakeError, match="copy of another lake"):
        copy_lake(other, third)
    with pytest.raises(SettingsError, match="the lake itself"):
        copy_lake(source, source)


@pytest.mark.slow
def test_a_lake_that_was_put_back_from_a_backup_does_not_take_commits_from_its_copy(source, destination, tmp_path):
    shutil.copytree(tmp_path / "source", tmp_path / "backup")
    _commit(source, "d")
    copy_lake(source, destination)
    before = _content(destination)
    with pytest.raises(LakeError, match="more commits than the lake"):
        copy_lake(LakeLocation.resolve(tmp_path / "backup"), destination)
    assert _content(destination) == before


@pytest.mark.slow
def test_a_damaged_file_is_not_copied_and_the_copy_stays_as_it_was(source, destination):
    copy_lake(source, destination)
    before = _content(destination)
    present = set(source.data_directory.rglob("store/sequences/**/*.parquet"))
    _commit(source, "d")
    (shard,) = set(source.data_directory.rglob("store/sequences/**/*.parquet")) - present
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(IntegrityError, match=shard.name):
        copy_lake(source, destination)
    assert _content(destination) == before


CHILD = """
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.copying.copy import copy_lake
copy_lake(*(LakeLocation.resolve(Path(name)) for name in sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "incremental"),
    [
        ("file-copied:3", False),
        ("catalog-copied", False),
        ("file-copied", True),
        ("file-staged:4", True),
        ("catalog-copied", True),
    ],
)
def test_a_copy_that_is_killed_is_no_lake_or_a_whole_one_and_the_next_goes_on(
    source, destination, tmp_path, place, incremental
):
    before = None
    if incremental:
        copy_lake(source, destination)
        before = _content(destination)
        _commit(source, "d")
    command = [sys.executable, "-c", CHILD, str(tmp_path / "source"), str(tmp_path / "copy")]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), ENVIRONMENT_VARIABLE: place}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    if place == "catalog-copied":
        assert _content(destination) == _content(source)
    elif before is not None:
        assert _content(destination) == before
    else:
        with pytest.raises(LakeMissingError):
            Lake.open(destination)
        with pytest.raises(LakeError):
            Lake.create(destination, held_out_salt="s", held_out_share=0.0)
    left = copy_lake(source, destination)
    assert left.n_files < left.n_files_in_all
    assert _content(destination) == _content(source)
    with Lake.open(source) as lake, Lake.open(destination) as copied:
        assert facts_of(lake) == facts_of(copied)
