"""Upkeep changes files and never what a row says; what is forgotten stays forgotten."""

import os
import shutil
import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from logitlake.storage.errors import IntegrityError, LakeError
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import fetch, resolve_row_set
from logitlake.storage.schema.tables import NAME
from logitlake.storage.students.registry import register_student
from logitlake.storage.upkeep.compaction import compact, merge_small_tables, plan_compaction
from logitlake.storage.upkeep.forgetting import find_documents, forget, retire_recipe
from logitlake.storage.upkeep.sweeping import sweep
from logitlake.storage.verification.verify import verify
from logitlake.storage.writing.commits import REJECTS, SOURCES, commit_unit
from logitlake.storage.writing.recipes import register_recipe
from logitlake.storage.writing.sightings import note_sightings

NOW = timedelta(0)
OTHER = {"teacher": {"name": "big"}, "tokenizer": "words", "sparsifier": {"name": "top_k"}, "temperature": 1.0}


@pytest.fixture
def filled(lake, make_rows, recipe):
    for one in (recipe, OTHER):
        register_recipe(lake, one)
        for names in (("a", "b"), ("c",), ("d", "e")):
            commit_unit(lake, make_rows(*names, recipe=one), recipe=one, run_id="run", seconds=1.0)
    return lake


def _files(lake: Lake) -> list[str]:
    rows = lake.sql(f"FROM ducklake_list_files('{NAME}', 'sequences', schema => 'store')")
    return rows["data_file"].to_pylist()


def _compact_all(lake: Lake) -> None:
    for merge in plan_compaction(lake, target_bytes=1 << 30):
        assert compact(lake, merge) is not None


def _on_disk(location) -> set[str]:
    return {str(path) for path in Path(location.data).rglob("store/sequences/**/*.parquet")}


def _age(location) -> None:
    """Make every file under the data path two hours old."""
    two_hours_ago = time.time() - 7200
    for path in location.data_directory.rglob("*"):
        os.utime(path, (two_hours_ago, two_hours_ago))


def test_merging_changes_files_and_no_row(filled):
    before = filled.sql("SELECT * FROM sequences ORDER BY recipe_id, doc_id, window_index").to_pylist()
    _compact_all(filled)
    assert len(_files(filled)) == 2
    assert filled.sql("SELECT * FROM sequences ORDER BY recipe_id, doc_id, window_index").to_pylist() == before
    assert all(not check.problem for check in verify(filled))
    assert plan_compaction(filled, target_bytes=1 << 30) == []


def test_merging_never_puts_two_recipes_into_one_file(filled):
    _compact_all(filled)
    counts = filled.sql("SELECT filename, count(DISTINCT recipe_id) AS n FROM store.sequences GROUP BY filename")
    assert counts["n"].to_pylist() == [1, 1]


def test_merging_keeps_below_the_size_that_was_asked_for(filled):
    sizes = filled.row("SELECT max(n_bytes) AS n FROM commits")["n"]
    assert plan_compaction(filled, target_bytes=sizes) == []
    assert {merge.n_files for merge in plan_compaction(filled, target_bytes=2 * sizes)} == {2}


def test_a_row_set_is_the_same_whatever_upkeep_has_done(filled, recipe):
    before = resolve_row_set(filled, recipe_id=id_of_recipe(recipe))
    unit_ids = before.units["unit_id"].to_pylist()
    rows = fetch(filled, before, unit_ids, ["doc_id", "window_index", "target_ids"]).to_pylist()
    _compact_all(filled)
    merge_small_tables(filled)
    sweep(filled, grace=NOW)
    after = resolve_row_set(filled, recipe_id=id_of_recipe(recipe), up_to_commit=before.up_to_commit)
    assert (after.row_set_id, after.content_hash) == (before.row_set_id, before.content_hash)
    assert fetch(filled, after, unit_ids, ["doc_id", "window_index", "target_ids"]).to_pylist() == rows


def test_old_files_outlive_the_merge_by_the_grace_and_no_longer(filled, location):
    _compact_all(filled)
    everything = _on_disk(location)
    kept = sweep(filled, grace=timedelta(hours=1))
    assert kept.expired_files == () and _on_disk(location) == everything
    planned = sweep(filled, grace=NOW, dry_run=True)
    assert _on_disk(location) == everything and planned.snapshots > 0
    sweep(filled, grace=NOW)
    assert _on_disk(location) == set(_files(filled))


def test_orphans_and_unfinished_writes_are_swept(filled, location):
    folder = Path(_files(filled)[0]).parent
    (folder / "orphan.parquet").write_bytes(b"x")
    (folder / "half.parquet.123.tmp").write_bytes(b"x")
    _age(location)
    kept = sweep(filled, grace=timedelta(hours=3))
    assert kept.orphaned_files == kept.staged_files == ()
    swept = sweep(filled, grace=NOW)
    assert [Path(path).name for path in swept.orphaned_files] == ["orphan.parquet"]
    assert [Path(path).name for path in swept.staged_files] == ["half.parquet.123.tmp"]
    assert _on_disk(location) == set(_files(filled))


def test_other_peoples_files_are_never_swept(filled, location):
    corpus = location.data_directory / "corpus"
    corpus.mkdir()
    others = [corpus / "mine.parquet", corpus / "mine.tmp", corpus / "mine.json.tmp"]
    for file in others:
        file.write_bytes(b"x")
    orphan = Path(_files(filled)[0]).parent / "orphan.parquet"
    orphan.write_bytes(b"x")
    _age(location)
    swept = sweep(filled, grace=NOW)
    assert [Path(path).name for path in swept.foreign_files] == ["mine.parquet"]
    assert swept.orphaned_files == swept.staged_files == ()
    assert orphan.exists() and all(file.exists() for file in others)
    others[0].unlink()
    assert [Path(path).name for path in sweep(filled, grace=NOW).orphaned_files] == ["orphan.parquet"]


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("table", ["ducklake_files_scheduled_for_deletion", "ducklake_data_file"])
def test_a_catalog_that_plans_to_remove_a_file_outside_the_lake_is_refused(filled, location, tmp_path, table, relative):
    foreign = tmp_path / "foreign.parquet"
    shutil.copyfile(_files(filled)[0], foreign)
    path = os.path.relpath(foreign, location.data) if relative else str(foreign)
    (merge, *_) = plan_compaction(filled, target_bytes=1 << 30)
    assert compact(filled, merge)
    _age(location)
    if table == "ducklake_files_scheduled_for_deletion":
        sweep(filled, grace=timedelta(days=1))
        query = f"INSERT INTO {table} VALUES (9999, ?, ?, '2001-01-01 00:00:00+00')"
    else:
        query = f"UPDATE {table} SET path = ?, path_is_relative = ? WHERE end_snapshot IS NOT NULL"
    with closing(sqlite3.connect(location.catalog_file, timeout=20)) as catalog, catalog:
        catalog.execute(query, [path, int(relative)])
    before = _on_disk(location)
    with pytest.raises(IntegrityError, match=r"plans the removal of .*foreign\.parquet.*No file was removed"):
        sweep(filled, grace=NOW)
    assert foreign.exists() and _on_disk(location) == before


def test_a_lake_is_not_made_where_other_parquet_files_lie(location):
    corpus = location.data_directory / "corpus"
    corpus.mkdir(parents=True)
    (corpus / "mine.parquet").write_bytes(b"x")
    with pytest.raises(LakeError, match="without other Parquet files"):
        Lake.create(location, held_out_salt="salt", held_out_share=0.0)


def test_what_was_forgotten_leaves_at_once_and_needs_no_grace(filled, location):
    forget(filled, [document_id("a")], reason="asked")
    _compact_all(filled)
    sweep(filled, grace=timedelta(hours=24), forget_at_once=True)
    held = filled.connection.execute(
        "SELECT count(*) FROM read_parquet(?) WHERE doc_id = ?", [sorted(_on_disk(location)), document_id("a")]
    ).fetchone()
    assert held == (0,)


def test_a_forgotten_document_is_gone_at_once_under_every_recipe(filled):
    forgotten = forget(filled, [document_id("a")], reason="asked")
    assert forgotten.n_sequences == 4
    for view in ("sequences", "documents", "sources", "positions", "targets"):
        assert filled.row(f"SELECT count(*) AS n FROM {view} WHERE doc_id = ?", [document_id("a")])["n"] == 0
    assert filled.sql("SELECT doc_id, reason FROM forgotten").to_pylist() == [
        {"doc_id": document_id("a"), "reason": "asked"}
    ]


def test_a_forgotten_document_is_gone_from_disk_after_maintenance(filled, location):
    doc_id = document_id("a")
    forget(filled, [doc_id], reason="asked")
    _compact_all(filled)
    sweep(filled, grace=NOW)
    held = filled.connection.execute(
        "SELECT count(*) FROM read_parquet(?) WHERE doc_id = ?", [sorted(_on_disk(location)), doc_id]
    ).fetchone()
    assert held == (0,)


@pytest.mark.parametrize("maintained", [False, True])
def test_neither_replay_nor_rebuild_brings_a_forgotten_document_back(filled, location, make_rows, recipe, maintained):
    forget(filled, [document_id("a")], reason="asked")
    if maintained:
        _compact_all(filled)
        sweep(filled, grace=NOW)
    assert commit_unit(filled, make_rows("a"), recipe=recipe, run_id="run", seconds=1.0).n_documents == 0
    rows = filled.sql("SELECT recipe_id, doc_id, window_index FROM sequences ORDER BY ALL").to_pylist()
    filled.close()
    for file in location.state_directory.glob("catalog.sqlite*"):
        file.unlink()
    rebuild(location)
    with Lake.open(location, read_only=False) as lake:
        assert lake.sql("SELECT recipe_id, doc_id, window_index FROM sequences ORDER BY ALL").to_pylist() == rows
        assert commit_unit(lake, make_rows("a"), recipe=recipe, run_id="run", seconds=1.0).n_documents == 0


def test_forgetting_names_the_students_that_had_seen_the_document_and_their_descendants(filled, recipe):
    shared = {"run_id": "r", "directory": "/d", "settings": {}, "metrics": {}}
    for name, where in (("all", None), ("some", f"doc_id <> '{document_id('a')}'")):
        row_set = resolve_row_set(filled, recipe_id=id_of_recipe(recipe), where=where)
        register_row_set(filled, row_set)
        register_student(filled, student_id=name, parent_id="model", row_set_id=row_set.row_set_id, **shared)
        register_student(filled, student_id=f"child of {name}", parent_id=name, row_set_id="other", **shared)
    assert forget(filled, [document_id("a")], reason="asked").student_ids == ("all", "child of all")


def test_a_merge_that_meets_a_forgetting_gives_way(filled):
    merge = plan_compaction(filled, target_bytes=1 << 30)[0]
    real = filled.transaction

    def forget_first():
        filled.transaction = real
        forget(filled, [document_id("a")], reason="asked")
        return real()

    filled.transaction = forget_first
    assert compact(filled, merge) is None
    assert filled.row("SELECT count(*) AS n FROM sequences WHERE doc_id = ?", [document_id("a")])["n"] == 0


def test_documents_to_forget_are_found_by_source_folder_or_condition(filled, make_rows, recipe):
    sources = [
        {"doc_id": document_id(name), "corpus": "books", "source": f"shelf/{name}.txt", "line": None} for name in "abc"
    ]
    note_sightings(
        filled, "run", pa.Table.from_pylist(sources, SOURCES), pa.table({"corpus": pa.array([], pa.string())})
    )
    assert find_documents(filled, source="books/shelf/a.txt") == [document_id("a")]
    assert len(find_documents(filled, source="books/shelf/")) == 3
    assert find_documents(filled, where="n_tokens > 1000") == []


def test_a_retired_recipe_is_gone_and_the_others_are_not(filled, recipe):
    assert retire_recipe(filled, id_of_recipe(OTHER)) == 10
    assert filled.sql("SELECT DISTINCT recipe_id FROM sequences")["recipe_id"].to_pylist() == [id_of_recipe(recipe)]
    with pytest.raises(LakeError, match="show recipes"):
        retire_recipe(filled, "nothing")


def test_the_source_of_a_forgotten_document_does_not_come_back_with_the_next_capture(filled):
    """The file is still in the corpus, and each capture reads it again."""
    forget(filled, [document_id("u0-0")], reason="asked")
    names = ("u0-0", "u0-1")
    read = [{"doc_id": document_id(n), "corpus": "c", "source": f"{n}.txt", "line": None} for n in names]
    note_sightings(filled, "run", pa.Table.from_pylist(read, SOURCES), REJECTS.empty_table())
    assert filled.sql("SELECT source FROM sources")["source"].to_pylist() == ["u0-1.txt"]
