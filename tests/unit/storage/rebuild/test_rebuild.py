"""The data path alone is enough, and nothing comes back that should not."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import write_note
from logitlake.storage.errors import FormatVersionError, LakeBusyError, LakeError, LakeMissingError
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import UNFINISHED, Lake
from logitlake.storage.lake.locks import commit_lock
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.schema.sequences import FORMAT_VERSION
from logitlake.storage.schema.tables import NAME, TABLES
from logitlake.storage.students.registry import register_student
from logitlake.storage.upkeep.compaction import merge_small_tables
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.verification.verify import verify, verify_tables
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary


@pytest.fixture
def filled(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    register_vocabulary(lake, "words", ["<s>", "the"], {0})
    for names in (("a", "b"), ("c",)):
        commit_unit(lake, make_rows(*names), recipe=recipe, run_id="run", seconds=1.0)
    return lake


def _lose_the_catalog(location: LakeLocation) -> None:
    for file in location.state_directory.glob("catalog.sqlite*"):
        file.unlink()


def _everything(lake: Lake) -> dict[str, object]:
    return {
        "sequences": lake.sql("SELECT * FROM sequences ORDER BY doc_id, window_index").to_pylist(),
        "documents": lake.sql("SELECT * FROM documents ORDER BY doc_id").to_pylist(),
        "recipes": lake.sql("SELECT recipe_id, recipe FROM recipes").to_pylist(),
        "students": lake.sql("SELECT student_id FROM students").to_pylist(),
        "vocabulary": lake.sql("SELECT * FROM vocabulary ORDER BY token_id").to_pylist(),
        "lineage": lake.sql("SELECT * FROM lineage").to_pylist(),
    }


def test_a_rebuilt_lake_holds_the_same_rows_students_and_lineage(filled, location, recipe):
    row_set = resolve_row_set(filled, recipe_id=id_of_recipe(recipe))
    register_row_set(filled, row_set)
    register_student(
        filled,
        student_id="s",
        parent_id="p",
        row_set_id=row_set.row_set_id,
        run_id="r",
        directory="/d",
        settings={},
        metrics={},
    )
    before = _everything(filled)
    filled.close()
    _lose_the_catalog(location)
    report = rebuild(location)
    assert (report.n_shards, report.n_documents, report.n_sequences, report.skipped) == (2, 3, 6, {})
    with Lake.open(location) as lake:
        assert _everything(lake) == before
        assert resolve_row_set(lake, recipe_id=id_of_recipe(recipe)).row_set_id == row_set.row_set_id


def _dump(lake: Lake, name: str) -> list[dict[str, Any]]:
    """Every row of a table with every column, in an order of its own."""
    return sorted(lake.sql(f"SELECT * FROM store.{name}").to_pylist(), key=repr)


@pytest.mark.parametrize("merged", [False, True], ids=["as committed", "merged"])
def test_a_rebuild_brings_back_every_row_of_every_table(full_lake, location, merged):
    if merged:
        merge_small_tables(full_lake)
    before = {name: _dump(full_lake, name) for name in TABLES if name not in ("guard", "damage")}
    last_commit = full_lake.commit_number
    full_lake.close()
    _lose_the_catalog(location)
    assert rebuild(location).skipped == {}
    with Lake.open(location) as lake:
        assert max(row["commit_number"] for row in before["promotions"]) < lake.commit_number <= last_commit
        for name, rows in before.items():
            assert _dump(lake, name) == rows, name
        assert [check.problem for check in verify_tables(lake) if check.problem] == []


def test_a_rebuild_leaves_out_a_row_of_a_small_table_that_was_changed_on_disk(full_lake, location, damage):
    full_lake.close()
    (file,) = location.data_directory.glob("store/promotions/*.parquet")
    damage(file, "student_id")
    _lose_the_catalog(location)
    skipped = rebuild(location).damaged
    assert len(skipped) == 1 and str(file) in next(iter(skipped)) and "student_id=studentx" in next(iter(skipped))
    with Lake.open(location) as lake:
        assert _dump(lake, "promotions") == []


def test_a_torn_file_of_a_small_table_is_reported_and_the_others_are_taken(full_lake, location):
    full_lake.close()
    torn, *_ = location.data_directory.glob("store/run_events/*.parquet")
    torn.write_bytes(torn.read_bytes()[:100])
    _lose_the_catalog(location)
    assert list(rebuild(location).damaged) == [str(torn)]
    with Lake.open(location) as lake:
        assert len(_dump(lake, "commits")) == 2


def test_a_commit_number_is_not_used_again_after_a_rebuild(filled, location):
    """Although the last commit holds nothing any more."""
    last = filled.row("SELECT max(commit_number) AS number FROM store.commits")["number"]
    gone = filled.sql("SELECT doc_id FROM documents WHERE commit_number = ?", [last])["doc_id"].to_pylist()
    forget(filled, gone, reason="asked")
    filled.close()
    _lose_the_catalog(location)
    rebuild(location)
    with Lake.open(location) as lake:
        assert lake.commit_number > last


def test_a_rebuild_after_compaction_takes_every_row_once(filled, location):
    filled.sql(f"CALL ducklake_merge_adjacent_files('{NAME}')")
    rows = filled.sql("SELECT doc_id, window_index, checksum FROM sequences ORDER BY ALL").to_pylist()
    filled.close()
    _lose_the_catalog(location)
    report = rebuild(location)
    assert report.n_shards == 1 and len(report.skipped) == 2
    with Lake.open(location, read_only=False) as lake:
        assert lake.sql("SELECT doc_id, window_index, checksum FROM sequences ORDER BY ALL").to_pylist() == rows
        assert [check.problem for check in verify(lake)] == ["", ""]


def test_a_rebuild_never_brings_a_forgotten_document_back(filled, location):
    doc_id = document_id("a")
    filled.close()
    write_note(location, f"tombstones/{doc_id}.json", {"doc_id": doc_id, "reason": "asked"})
    _lose_the_catalog(location)
    assert rebuild(location).n_documents == 2
    with Lake.open(location) as lake:
        for table in ("store.sequences", "store.documents"):
            held = lake.sql(f"SELECT DISTINCT doc_id FROM {table} ORDER BY doc_id")["doc_id"].to_pylist()
            assert held == sorted(document_id(name) for name in "bc"), table


def test_a_torn_shard_is_reported_and_left_alone(filled, location):
    filled.close()
    torn = sorted(Path(location.data).rglob("store/sequences/**/*.parquet"))[0]
    torn.write_bytes(torn.read_bytes()[:200])
    _lose_the_catalog(location)
    report = rebuild(location)
    (unit,) = set(report.damaged) - {str(torn)}
    assert report.damaged[str(torn)] and report.n_shards == 1
    assert unit == f"unit {torn.stem.rpartition('-')[0]}"
    assert "documents are in no file" in report.damaged[unit]
    assert torn.exists()


def test_the_documents_of_a_shard_that_is_gone_are_named(filled, location):
    filled.close()
    gone = sorted(Path(location.data).rglob("store/sequences/**/*.parquet"))[0]
    gone.unlink()
    _lose_the_catalog(location)
    report = rebuild(location)
    assert list(report.damaged) == [f"unit {gone.stem.rpartition('-')[0]}"]
    assert report.n_lost_documents > 0


def test_a_rebuild_never_overwrites_a_catalog(filled, location):
    with pytest.raises(LakeError, match="exists"):
        rebuild(location)


def test_a_folder_that_is_no_lake_is_refused(tmp_path):
    with pytest.raises(LakeError, match=r"lake\.json"):
        rebuild(LakeLocation.resolve(tmp_path / "nothing"))
    with pytest.raises(LakeMissingError, match="logitlake capture"):
        Lake.open(LakeLocation.resolve(tmp_path / "nothing"))


def test_a_lake_can_be_moved(filled, location, tmp_path):
    filled.close()
    moved = LakeLocation.resolve(tmp_path / "elsewhere")
    shutil.move(location.state_directory, moved.state_directory)
    with Lake.open(moved) as lake:
        assert lake.row("SELECT count(*) AS n FROM sequences")["n"] == 6
        files = lake.sql(f"SELECT data_file FROM ducklake_list_files('{NAME}', 'sequences', schema => 'store')")
    assert all(path.startswith(moved.data) for path in files["data_file"].to_pylist())


def test_a_lake_of_a_newer_format_is_refused_and_left_as_it_was(filled, location):
    with filled.transaction() as transaction:
        transaction.connection.execute("UPDATE store.guard SET format_version = ?", [FORMAT_VERSION + 1])
    filled.close()
    with pytest.raises(FormatVersionError, match="upgrade logitlake"):
        Lake.open(location)
    with pytest.raises(FormatVersionError, match="upgrade logitlake"):
        Lake.create(location, held_out_salt="salt", held_out_share=0.0)


def test_a_row_that_says_something_else_than_was_committed_is_found_and_named(filled):
    doc_id = document_id("a")
    with filled.transaction() as transaction:
        transaction.connection.execute("UPDATE store.sequences SET input_ids = [9, 9, 9] WHERE doc_id = ?", [doc_id])
    problems = [check.problem for check in verify(filled) if check.problem]
    assert len(problems) == 1 and "checksum" in problems[0] and doc_id in problems[0]


def test_a_changed_byte_is_found_and_the_other_shards_are_still_checked(filled, location):
    path = sorted(Path(location.data).rglob("store/sequences/**/*.parquet"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    assert sorted(bool(check.problem) for check in verify(filled)) == [False, True]


def test_a_missing_shard_is_found_and_named(filled, location):
    sorted(Path(location.data).rglob("store/sequences/**/*.parquet"))[0].unlink()
    assert sum(bool(check.problem) for check in verify(filled)) == 1


def test_a_sample_of_the_lake_can_be_checked(filled):
    assert len(list(verify(filled, sample=1.0))) == 2
    assert list(verify(filled, sample=0.0)) == []


def test_a_rebuild_that_another_rebuild_has_overtaken_adds_no_row(filled, location, monkeypatch):
    filled.close()
    _lose_the_catalog(location)

    def complete(lake: Lake, _: object) -> None:
        with lake.transaction() as transaction:
            transaction.connection.execute(f"DELETE FROM store.lake_settings WHERE name = '{UNFINISHED}'")

    monkeypatch.setattr("logitlake.storage.rebuild.catalog._renew_lake_notes", complete)
    with pytest.raises(LakeError, match="another rebuild has completed the catalog"):
        rebuild(location)


def test_a_rebuild_waits_with_its_rename_for_a_lake_that_is_being_made(filled, location, monkeypatch):
    filled.close()
    _lose_the_catalog(location)
    monkeypatch.setattr("logitlake.storage.rebuild.catalog._LOCK_SECONDS", 0.1)
    with commit_lock(location, 1.0), pytest.raises(LakeBusyError):
        rebuild(location)
    assert not location.catalog_file.exists()
