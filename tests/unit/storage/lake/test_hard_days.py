"""Days on which several things go wrong at once."""

from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from logitlake.storage.connection.attach import attach
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeBusyError, LakeError, LakeMissingError, SettingsError
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.shards.writing import write_shard
from logitlake.storage.students.promotions import promote, student_of
from logitlake.storage.upkeep.forgetting import forget, retire_recipe
from logitlake.storage.upkeep.sweeping import sweep
from logitlake.storage.verification.verify import verify
from logitlake.storage.writing.commits import SOURCES, commit_unit
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary
from logitlake.storage.writing.sightings import note_sightings

NOW = timedelta(0)


@pytest.fixture
def filled(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    commit_unit(lake, make_rows("a", "b", "c"), recipe=recipe, run_id="run", seconds=1.0)
    return lake


def _lose_the_catalog(location):
    for file in location.state_directory.glob("catalog.sqlite*"):
        file.unlink()


def test_what_was_retired_and_captured_again_survives_the_sweep_of_the_old_files(filled, make_rows, recipe):
    retire_recipe(filled, id_of_recipe(recipe))
    commit_unit(filled, make_rows("a", "b", "c"), recipe=recipe, run_id="run", seconds=1.0)
    sweep(filled, grace=NOW)
    assert [check.problem for check in verify(filled)] == [""]


def test_a_writer_that_loses_a_race_never_touches_the_winners_shard(filled, make_rows, recipe):
    """It writes its shard before it learns that it has lost; with bf16 the bytes are others."""
    rows = make_rows("x")
    commit_unit(filled, rows, recipe=recipe, run_id="winner", seconds=1.0)
    unit = filled.row(
        "SELECT unit_id FROM documents JOIN store.documents USING (doc_id) WHERE doc_id = ?", [document_id("x")]
    )
    other = rows.set_column(
        rows.schema.get_field_index("unit_id"), "unit_id", pa.array([unit["unit_id"]] * rows.num_rows)
    )
    write_shard(filled.location, other, {"another": "footer"})
    assert all(not check.problem for check in verify(filled))


def test_forgetting_some_documents_of_a_file_and_losing_the_catalog_forgets_only_those(filled, location):
    sources = [{"doc_id": document_id(name), "corpus": "books", "source": name, "line": None} for name in "abc"]
    rejects = pa.table({"corpus": pa.array([], pa.string())})
    note_sightings(filled, "run", pa.Table.from_pylist(sources, SOURCES), rejects)
    forget(filled, [document_id("b")], reason="asked")
    filled.close()
    _lose_the_catalog(location)
    assert rebuild(location).n_documents == 2
    with Lake.open(location) as lake:
        rows = lake.sql("SELECT doc_id, source FROM sources ORDER BY source").to_pylist()
        assert rows == [{"doc_id": document_id(name), "source": name} for name in "ac"]


def test_a_lake_is_never_made_over_shards_whose_catalog_is_gone(filled, location):
    filled.close()
    _lose_the_catalog(location)
    note = (Path(location.data) / "lake.json").read_bytes()
    with pytest.raises(LakeError, match="logitlake rebuild"):
        Lake.create(location, held_out_salt="another", held_out_share=0.5)
    assert (Path(location.data) / "lake.json").read_bytes() == note
    _lose_the_catalog(location)
    assert rebuild(location).n_documents == 3


def test_a_lake_that_was_killed_while_it_was_made_is_mended_by_the_next_open(location, monkeypatch):
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("logitlake.storage.lake.creation._set_options", die)
    with pytest.raises(KeyboardInterrupt):
        Lake.create(location, held_out_salt="s", held_out_share=0.1)
    monkeypatch.undo()
    with Lake.create(location, held_out_salt="another", held_out_share=0.5) as lake:
        assert (lake.held_out_salt, lake.held_out_share) == ("s", 0.1)
        found = lake.sql(
            "SELECT value FROM lake.options() WHERE option_name = 'data_inlining_row_limit' AND scope = 'GLOBAL'"
        )
        assert found["value"].to_pylist() == ["0"]
    assert '"held_out_salt": "s"' in (Path(location.data) / "lake.json").read_text(encoding="utf-8")


def test_a_reader_of_a_lake_that_is_just_being_made_is_told_so(location, monkeypatch):
    def look(*_: object) -> None:
        with pytest.raises(LakeMissingError, match="just being made"):
            Lake.open(location)
        raise KeyboardInterrupt

    monkeypatch.setattr("logitlake.storage.lake.migration.make_views", look)
    with pytest.raises(KeyboardInterrupt):
        Lake.create(location, held_out_salt="s", held_out_share=0.1)
    monkeypatch.undo()
    Lake.open(location, read_only=False).close()
    Lake.open(location).close()


def test_small_deletes_are_files_and_never_hidden_in_the_catalog(filled):
    with filled.transaction() as transaction:
        transaction.connection.execute("DELETE FROM store.sequences WHERE doc_id = ?", [document_id("a")])
    files = filled.sql("FROM ducklake_list_files('lake', 'sequences', schema => 'store')")
    assert files["delete_file"].null_count == 0


def test_an_embedded_catalog_uses_a_write_ahead_log(filled, location):
    filled.close()
    journal_versions = location.catalog_file.read_bytes()[18:20]
    assert journal_versions == b"\x02\x02"


def test_promotions_go_on_after_a_rebuild(filled, location):
    for name in ("first", "second", "third"):
        promote(filled, name, expected=student_of(filled), figures={}, run_id="run")
    filled.close()
    _lose_the_catalog(location)
    rebuild(location)
    with Lake.open(location, read_only=False) as lake:
        assert student_of(lake) == "third"
        promote(lake, "fourth", expected="third", figures={}, run_id="run")
        assert student_of(lake) == "fourth"


def test_a_failed_rebuild_leaves_the_way_free_for_the_next(filled, location, monkeypatch):
    filled.close()
    _lose_the_catalog(location)

    def fail(*_: object) -> None:
        raise RuntimeError("half way")

    monkeypatch.setattr("logitlake.storage.rebuild.catalog._finish", fail)
    with pytest.raises(RuntimeError, match="half way"):
        rebuild(location)
    monkeypatch.undo()
    assert rebuild(location).n_documents == 3


def test_a_lock_that_can_not_be_had_is_said_at_once_and_not_tried_again(filled, location, make_rows, recipe):
    busy = pytest.raises(LakeBusyError, match="lock_timeout_seconds")
    with Lake.open(location, read_only=False, lock_timeout=0.05) as other, filled.transaction(), busy:
        commit_unit(other, make_rows("d"), recipe=recipe, run_id="run", seconds=1.0)


def test_a_failure_of_the_database_is_an_error_of_the_lake(filled):
    with pytest.raises(LakeError, match="rolled back"), filled.transaction() as transaction:
        transaction.connection.execute("INSERT INTO store.recipes VALUES (NULL, NULL, NULL, NULL)")


def test_a_catalog_without_a_lake_is_named_without_its_password(tmp_path):
    location = LakeLocation.resolve(tmp_path, str(tmp_path / "password=hunter2"))
    attach(location, read_only=False).close()
    with pytest.raises(LakeMissingError, match="holds no lake") as refused:
        Lake.open(location)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("place", ["exp[1]", "what?", "a*b", "corpus=wiki"])
def test_a_data_path_that_the_engine_would_misread_is_refused(tmp_path, place):
    with pytest.raises(SettingsError, match=r"lake\.data"):
        LakeLocation.resolve(tmp_path / place / "lake")
    LakeLocation.resolve(tmp_path / "lr=0.1" / "lake")


def test_a_unit_is_sound_although_a_document_of_it_is_forgotten_while_it_is_verified(filled, make_rows, recipe):
    commit_unit(filled, make_rows("x", "y"), recipe=recipe, run_id="run", seconds=1.0)
    checks = verify(filled)
    problems = [next(checks).problem]
    forget(filled, [document_id("a"), document_id("x")], reason="asked")
    assert [*problems, *(check.problem for check in checks)] == ["", ""]


def test_a_vocabulary_that_is_stored_twice_doubles_no_row(filled):
    register_vocabulary(filled, "words", [f"t{number}" for number in range(12)], set())
    names = ("positions", "heads", "tails")
    before = [filled.row(f"SELECT count(*) AS n FROM {name}")["n"] for name in names]
    with filled.transaction() as transaction:
        transaction.connection.execute("INSERT INTO store.vocabulary SELECT * FROM store.vocabulary")
    assert [filled.row(f"SELECT count(*) AS n FROM {name}")["n"] for name in names] == before


@pytest.mark.parametrize("weight", ["1.0 / count(*) OVER (PARTITION BY corpus)", "corpus"])
def test_a_weight_that_is_not_a_number_of_its_own_row_is_refused(filled, recipe, weight):
    with pytest.raises(SettingsError, match=r"training\.weight"):
        resolve_row_set(filled, recipe_id=id_of_recipe(recipe), weight=weight)


def test_no_second_copy_of_local_shards_is_kept_in_memory(filled):
    filled.sql("SELECT sum(n_tokens) FROM sequences WHERE len(target_ids) > 0")
    cached = "SELECT sum(memory_usage_bytes)::BIGINT AS n FROM duckdb_memory() WHERE tag = 'EXTERNAL_FILE_CACHE'"
    assert filled.row(cached)["n"] == 0


def test_the_notes_beside_a_new_lake_name_its_own_held_out_rule(location):
    """A lake without shards was begun anew with other settings: a rebuild must not bring the old rule back."""
    Lake.create(location, held_out_salt="old", held_out_share=0.1).close()
    _lose_the_catalog(location)
    Lake.create(location, held_out_salt="new", held_out_share=0.5).close()
    _lose_the_catalog(location)
    rebuild(location)
    with Lake.open(location) as lake:
        assert (lake.held_out_salt, lake.held_out_share) == ("new", 0.5)


@pytest.mark.parametrize("reason", ["IO Error: No space left on device", "database or disk is full"])
def test_a_full_disk_is_named_at_once_while_a_lake_is_made(location, monkeypatch, reason):
    attempts = []

    def fail(*_: object) -> None:
        attempts.append(1)
        raise duckdb.IOException(reason)

    monkeypatch.setattr("logitlake.storage.lake.creation._make_tables", fail)
    with pytest.raises(LakeError, match="free some space and run again") as refused:
        Lake.create(location, held_out_salt="s", held_out_share=0.1)
    assert not isinstance(refused.value, LakeBusyError) and len(attempts) == 1
