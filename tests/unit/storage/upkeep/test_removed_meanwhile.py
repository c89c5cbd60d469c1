"""A file that another process removes between the listing and the reading is left out: no error, no false damage."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from logitlake.storage.connection.object_store import connect, put_bytes
from logitlake.storage.errors import LakeError
from logitlake.storage.recovery.damaged_files import copy_aside
from logitlake.storage.recovery.table_files import data_files, intact_rows, unreadable_files
from logitlake.storage.upkeep.sweeping import sweep
from logitlake.storage.verification.history import examine
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe


@pytest.fixture
def filled(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    commit_unit(lake, make_rows("a", "b"), recipe=recipe, run_id="run", seconds=1.0)
    return lake


@pytest.mark.parametrize("all_of_them", [False, True], ids=["one of them", "all of them"])
def test_the_rows_of_a_table_are_read_without_files_that_are_gone(filled, location, all_of_them):
    gone = f"{location.data}store/commits/ducklake-rolled-back.parquet"
    paths = [gone] if all_of_them else [*data_files(location, "commits"), gone]
    damage: dict[str, str] = {}
    with connect(location) as connection:
        assert unreadable_files(connection, "commits", paths) == {}
        rows = [row for table in intact_rows(connection, "commits", paths, damage) for row in table.to_pylist()]
    assert (len(rows), damage) == (0 if all_of_them else 1, {})


def test_a_file_that_is_there_and_can_not_be_read_is_named(filled, location):
    put_bytes(location, "store/commits/torn.parquet", b"torn")
    with connect(location) as connection, pytest.raises(LakeError, match=r"torn\.parquet"):
        list(intact_rows(connection, "commits", data_files(location, "commits"), {}))


def test_files_that_are_gone_are_neither_missing_history_nor_damage(filled, location):
    names = ("commits/ducklake-gone.parquet", "run_events/ducklake-gone.parquet", "sequences/recipe_id=x/gone.parquet")
    found = examine(filled, [f"{location.data}store/{name}" for name in names])
    assert (found.missing, found.damaged) == ([], {})


def test_a_damaged_file_that_is_gone_is_not_copied(filled, location):
    assert copy_aside(location, f"{location.data}store/commits/gone.parquet") is None
    assert not (location.data_directory / "damaged").exists()


def test_a_sweep_passes_over_an_unfinished_write_that_its_writer_completes(filled, location, monkeypatch):
    staged = location.data_directory / "store/note.json.123.tmp"
    staged.write_bytes(b"x")
    os.utime(staged, (0, 0))

    def rename_meanwhile(name: str) -> bool:
        Path(staged).replace(staged.with_name("note.json"))
        return True

    monkeypatch.setattr("logitlake.storage.upkeep.sweeping.is_staged", rename_meanwhile)
    assert sweep(filled, grace=timedelta(0)).staged_files == ()
