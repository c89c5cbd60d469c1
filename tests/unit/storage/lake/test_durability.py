"""A commit that survives a power loss names only files that do."""

import os
from pathlib import Path

import pytest

from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.schema.tables import NAME, TABLES
from logitlake.storage.upkeep.compaction import merge_small_tables
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe
from logitlake.storage.writing.runs import note_run


@pytest.fixture
def synced(monkeypatch) -> set[int]:
    """The inodes that were synced, files and folders."""
    inodes: set[int] = set()
    fsync = os.fsync

    def noting_fsync(handle) -> None:
        inodes.add(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    return inodes


def named_files(lake: Lake) -> set[str]:
    """Every file that the catalog names, with the lists of deleted rows."""
    paths = set()
    for table in TABLES:
        files = lake.sql(
            f"SELECT data_file, delete_file FROM ducklake_list_files('{NAME}', '{table}', schema => 'store')"
        )
        paths |= {path for column in files.columns for path in column.to_pylist() if path}
    return paths


def unsynced(lake: Lake, inodes: set[int]) -> list[str]:
    return sorted(
        path for path in named_files(lake) if not {Path(path).stat().st_ino, Path(path).parent.stat().st_ino} <= inodes
    )


def test_every_file_that_the_catalog_names_was_synced(synced, location, make_rows, recipe):
    with Lake.create(location, held_out_salt="s", held_out_share=0.1) as lake:
        assert unsynced(lake, synced) == []
        register_recipe(lake, recipe)
        note_run(lake, "run", "started", kind="capture", recipe_id=None)
        commit_unit(lake, make_rows("a", "b"), recipe=recipe, run_id="run", seconds=1.0)
        forget(lake, [document_id("a")], reason="asked")
        assert unsynced(lake, synced) == []
        merge_small_tables(lake)
        assert len(named_files(lake)) > 5 and unsynced(lake, synced) == []
