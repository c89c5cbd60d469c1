"""No file leaves the disk while the catalog does not know what the file holds."""

import os
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import IntegrityError
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.last_commit import NOTE
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.schema.sequences import with_checksums
from logitlake.storage.shards.writing import write_shard
from logitlake.storage.upkeep.compaction import compact, merge_small_tables, plan_compaction
from logitlake.storage.upkeep.forgetting import forget, retire_recipe
from logitlake.storage.upkeep.sweeping import sweep
from logitlake.storage.verification.history import examine, unknown_files
from logitlake.storage.verification.verify import verify
from logitlake.storage.writing.commits import commit_unit, stored_rows
from logitlake.storage.writing.recipes import register_recipe
from logitlake.storage.writing.runs import note_run

NOW = timedelta(0)


@pytest.fixture
def filled(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    for names in (("a", "b"), ("c",)):
        commit_unit(lake, make_rows(*names), recipe=recipe, run_id="run", seconds=1.0)
    return lake


def age(location: LakeLocation) -> None:
    """Make every file under the data path two hours old."""
    two_hours_ago = time.time() - 7200
    for path in location.data_directory.rglob("*"):
        os.utime(path, (two_hours_ago, two_hours_ago))


def lose_the_catalog(location: LakeLocation) -> None:
    for file in location.state_directory.glob("catalog.sqlite*"):
        file.unlink()


def files(location: LakeLocation) -> set[str]:
    return {str(path) for path in location.data_directory.rglob("*") if path.is_file()}


def shards(location: LakeLocation) -> list[Path]:
    return sorted(location.data_directory.glob("store/sequences/**/*.parquet"))


def documents(lake: Lake) -> list[str]:
    return sorted(lake.sql("SELECT DISTINCT doc_id FROM sequences")["doc_id"].to_pylist())


def ids(*names: str) -> list[str]:
    return sorted(map(document_id, names))


def copy_of(location: LakeLocation, directory: Path) -> Path:
    """A backup of the catalog, whole because nobody has it open."""
    return Path(shutil.copy(location.catalog_file, directory / "backup.sqlite"))


def restore(location: LakeLocation, backup: Path) -> None:
    """Put an older catalog back where no note says so: an older logitlake wrote none, and the last one can be lost."""
    lose_the_catalog(location)
    shutil.copy(backup, location.catalog_file)
    (location.data_directory / NOTE).unlink()


@pytest.mark.parametrize("n_later", [1, 2])
def test_an_older_catalog_removes_no_shard_of_a_later_run(filled, location, make_rows, recipe, tmp_path, n_later):
    filled.close()
    backup = copy_of(location, tmp_path)
    with Lake.open(location, read_only=False) as lake:
        for name in ("x", "y")[:n_later]:
            commit_unit(lake, make_rows(name), recipe=recipe, run_id="later", seconds=1.0)
    restore(location, backup)
    age(location)
    before = files(location)
    with Lake.open(location) as lake:
        assert len(examine(lake, unknown_files(lake)).missing) == n_later
    with Lake.open(location, read_only=False) as lake, pytest.raises(IntegrityError, match="logitlake rebuild"):
        sweep(lake, grace=NOW)
    assert files(location) == before
    lose_the_catalog(location)
    rebuild(location)
    with Lake.open(location, read_only=False) as lake:
        assert documents(lake) == ids("a", "b", "c", *("x", "y")[:n_later])
        sweep(lake, grace=NOW)
        assert [check.problem for check in verify(lake) if check.problem] == []


@pytest.mark.parametrize("merged", [False, True], ids=["as committed", "merged"])
def test_a_catalog_that_was_copied_within_a_run_removes_no_later_shard(
    filled, location, make_rows, recipe, tmp_path, merged
):
    filled.close()
    backup = copy_of(location, tmp_path)
    with Lake.open(location, read_only=False) as lake:
        commit_unit(lake, make_rows("x"), recipe=recipe, run_id="run", seconds=1.0)
        note_run(lake, "run", "finished", kind="capture", recipe_id=None)
        if merged:
            for merge in plan_compaction(lake, target_bytes=1 << 30):
                compact(lake, merge)
            merge_small_tables(lake)
    restore(location, backup)
    age(location)
    before = files(location)
    with Lake.open(location, read_only=False) as lake, pytest.raises(IntegrityError, match="does not know"):
        sweep(lake, grace=NOW)
    assert files(location) == before


def test_an_empty_catalog_over_shards_removes_nothing(filled, location, empty_lake):
    """As an interrupted rebuild of an older logitlake leaves it."""
    filled.close()
    restore(location, empty_lake / "catalog.sqlite")
    age(location)
    before = files(location)
    with Lake.open(location, read_only=False) as lake, pytest.raises(IntegrityError, match="logitlake rebuild"):
        sweep(lake, grace=NOW)
    assert files(location) == before


def test_a_file_that_a_writer_may_still_register_outlives_a_grace_of_zero(filled, location, make_rows, recipe):
    rows = stored_rows(make_rows("x"))
    path, _ = write_shard(location, rows, recipe)
    staged = Path(path).with_name("half.parquet.123.tmp")
    staged.write_bytes(b"x")
    sweep(filled, grace=NOW)
    assert Path(path).exists() and staged.exists()
    age(location)
    swept = sweep(filled, grace=NOW)
    assert (swept.orphaned_files, swept.staged_files) == ((path,), (str(staged),))


def test_files_of_a_rebuilt_lake_that_are_in_other_files_are_swept(filled, location):
    forget(filled, [document_id("a")], reason="asked")
    filled.close()
    lose_the_catalog(location)
    rebuild(location)
    age(location)
    with Lake.open(location, read_only=False) as lake:
        swept = sweep(lake, grace=NOW)
        assert len([path for path in swept.orphaned_files if "/sequences/" in path and "-delete" not in path]) == 1
        assert swept.damaged_files == () and documents(lake) == ids("b", "c")


def test_shards_of_a_retired_recipe_are_swept_after_a_rebuild(filled, location, recipe):
    forget(filled, [document_id("a")], reason="asked")
    filled.close()
    lose_the_catalog(location)
    rebuild(location)
    age(location)
    with Lake.open(location, read_only=False) as lake:
        retire_recipe(lake, id_of_recipe(recipe))
        sweep(lake, grace=NOW)
    assert shards(location) == []


def test_an_unreadable_orphan_is_kept_as_a_copy(filled, location):
    orphan = shards(location)[0].with_name("orphan.parquet")
    orphan.write_bytes(b"torn")
    age(location)
    assert sweep(filled, grace=NOW, dry_run=True).damaged_files == (str(orphan),)
    assert not (location.data_directory / "damaged").exists()
    assert sweep(filled, grace=NOW).damaged_files == (str(orphan),)
    (copy,) = (location.data_directory / "damaged").iterdir()
    assert copy.read_bytes() == b"torn" and not orphan.exists()
    age(location)
    sweep(filled, grace=NOW)
    assert copy.exists()


def test_a_damaged_row_of_a_shard_is_kept_as_a_copy(filled, location, make_rows, recipe):
    rows: Any = with_checksums(stored_rows(make_rows("x")))
    column = rows.schema.get_field_index("source")
    changed = rows.set_column(column, rows.schema.field("source"), [["other"] * rows.num_rows])
    path, _ = write_shard(location, changed, recipe)
    age(location)
    assert sweep(filled, grace=NOW).damaged_files == (path,)
    assert len(list((location.data_directory / "damaged").iterdir())) == 1


def test_a_file_of_commits_that_a_power_loss_left_empty_does_not_stop_upkeep(filled, location, make_rows, recipe):
    shard, _ = write_shard(location, stored_rows(make_rows("x")), recipe)
    empty = location.data_directory / "store/commits/ducklake-never-committed.parquet"
    empty.write_bytes(b"")
    assert examine(filled, unknown_files(filled)).missing == []
    age(location)
    assert sweep(filled, grace=NOW).damaged_files == (str(empty), shard)
    assert sorted(path.name.split("__")[1] for path in (location.data_directory / "damaged").iterdir()) == [
        "commits",
        "sequences",
    ]
    assert documents(filled) == ids("a", "b", "c") and not Path(shard).exists()


def test_a_complete_file_of_commits_with_damage_keeps_the_shards(filled, location, make_rows, recipe):
    shard, _ = write_shard(location, stored_rows(make_rows("x")), recipe)
    damaged = location.data_directory / "store/commits/ducklake-of-another-catalog.parquet"
    damaged.write_bytes(b"PAR1 damaged PAR1")
    age(location)
    with pytest.raises(IntegrityError, match="holds 1 record of committed work"):
        sweep(filled, grace=NOW)
    assert damaged.exists() and Path(shard).exists()


def test_captures_commit_while_upkeep_reads_what_orphans_hold(filled, location, make_rows, recipe, monkeypatch):
    orphan, _ = write_shard(location, stored_rows(make_rows("x")), recipe)
    age(location)

    def capture_meanwhile(lake: Lake, paths: Any) -> Any:
        if orphan in paths:
            with Lake.open(location, read_only=False, lock_timeout=0.1) as other:
                commit_unit(other, make_rows("y"), recipe=recipe, run_id="run", seconds=1.0)
        return examine(lake, paths)

    monkeypatch.setattr("logitlake.storage.upkeep.sweeping.examine", capture_meanwhile)
    assert sweep(filled, grace=NOW).orphaned_files == (orphan,)
    assert documents(filled) == ids("a", "b", "c", "y")
