"""A catalog that knows less than its data is noticed by every opening: an older copy put back, or commits lost."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import IntegrityError, LakeError
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.last_commit import NOTE, note_commit, noted_commit
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.sql.session import query
from logitlake.storage.students.promotions import promote
from logitlake.storage.students.registry import register_student
from logitlake.storage.upkeep.forgetting import forget, retire_recipe
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe
from logitlake.storage.writing.runs import note_run


@pytest.fixture
def filled(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    commit_unit(lake, make_rows("a", "b"), recipe=recipe, run_id="run", seconds=1.0)
    return lake


@pytest.fixture
def backup(filled, location, tmp_path) -> Path:
    """A backup of the catalog, whole because nobody has it open."""
    filled.close()
    return Path(shutil.copy(location.catalog_file, tmp_path / "backup.sqlite"))


def restore(location: LakeLocation, backup: Path) -> None:
    lose_the_catalog(location)
    shutil.copy(backup, location.catalog_file)


def lose_the_catalog(location: LakeLocation) -> None:
    for file in location.state_directory.glob("catalog.sqlite*"):
        file.unlink()


def register(lake: Lake, recipe: dict[str, Any]) -> None:
    names = {"student_id": "s", "parent_id": "p", "row_set_id": "r", "run_id": "run", "directory": "d"}
    register_student(lake, **names, settings={}, metrics={})


LATER: dict[str, Callable[[Lake, Any, dict[str, Any]], object]] = {
    "one commit of a known run": lambda lake, rows, recipe: commit_unit(
        lake, rows("x"), recipe=recipe, run_id="run", seconds=1.0
    ),
    "a row set": lambda lake, rows, recipe: register_row_set(
        lake, resolve_row_set(lake, recipe_id=id_of_recipe(recipe))
    ),
    "a student": lambda lake, rows, recipe: register(lake, recipe),
    "a promotion": lambda lake, rows, recipe: promote(lake, "s", expected=None, figures={}, run_id="run"),
    "a forgotten document": lambda lake, rows, recipe: forget(lake, [document_id("a")], reason="asked"),
    "a retired recipe": lambda lake, rows, recipe: retire_recipe(lake, id_of_recipe(recipe)),
    "the end of a run": lambda lake, rows, recipe: note_run(lake, "run", "finished", kind="capture", recipe_id=None),
}


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
def test_a_catalog_that_lacks_one_transaction_is_refused_by_writers_and_named_by_readers(
    location, backup, make_rows, recipe, later, caplog
):
    with Lake.open(location, read_only=False) as lake:
        later(lake, make_rows, recipe)
    with caplog.at_level(logging.WARNING):
        Lake.open(location).close()
    assert caplog.messages == []
    restore(location, backup)
    for open_lake in (
        lambda: Lake.open(location, read_only=False),
        lambda: Lake.create(location, held_out_salt="s", held_out_share=0.0),
    ):
        with pytest.raises(IntegrityError, match=r"older copy.*logitlake rebuild"):
            open_lake()
    with caplog.at_level(logging.WARNING):
        query(location, "SELECT count(*) FROM documents")
    (message,) = caplog.messages
    assert "older copy" in message and "\n" not in message


def test_a_rebuild_of_an_older_catalog_is_up_to_date_and_its_numbers_never_fall(location, backup, make_rows, recipe):
    with Lake.open(location, read_only=False) as lake:
        commit_unit(lake, make_rows("x"), recipe=recipe, run_id="run", seconds=1.0)
        for number in range(3):
            note_run(lake, f"run {number}", "finished", kind="capture", recipe_id=None)
        before = lake.commit_number
    restore(location, backup)
    lose_the_catalog(location)
    rebuild(location)
    with Lake.open(location, read_only=False) as lake:
        assert before <= lake.commit_number == noted_commit(lake.connection, location)
        commit_unit(lake, make_rows("y"), recipe=recipe, run_id="run", seconds=1.0)
        assert lake.row("SELECT count(*) AS n FROM documents")["n"] == 4


def test_a_lake_without_the_note_or_with_a_damaged_one_is_opened_and_gets_it_at_the_next_commit(
    filled, location, make_rows, recipe
):
    note = location.data_directory / NOTE
    number = filled.commit_number
    content = note.read_text(encoding="utf-8")
    for damaged in (None, "", content[:-9], content.replace(f": {number}", f": {number + 10}"), "[" * 10_000, "null"):
        if damaged is None:
            note.unlink()
        else:
            assert damaged != content
            note.write_text(damaged, encoding="utf-8")
        with Lake.open(location, read_only=False) as lake:
            note_run(lake, "run", "finished", kind="capture", recipe_id=None)
            assert noted_commit(lake.connection, location) == lake.commit_number


def test_a_commit_whose_note_can_not_be_written_has_landed(filled, location, make_rows, recipe, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("logitlake.storage.lake.last_commit._write", full)
    commit_unit(filled, make_rows("x"), recipe=recipe, run_id="run", seconds=1.0)
    assert "No space left" in caplog.messages[0]
    with Lake.open(location, read_only=False) as lake:
        assert lake.row("SELECT count(*) AS n FROM documents")["n"] == 3


def test_a_lake_whose_catalog_is_gone_is_never_made_anew_over_its_notes(filled, location):
    """As a copy of a lake leaves it that was killed before the first shard and the catalog."""
    filled.close()
    lose_the_catalog(location)
    shutil.rmtree(location.data_directory / "store")
    with pytest.raises(LakeError, match="its catalog is gone"):
        Lake.create(location, held_out_salt="another", held_out_share=0.5)
    (location.data_directory / NOTE).unlink()
    with pytest.raises(LakeError, match="its catalog is gone"):
        Lake.create(location, held_out_salt="another", held_out_share=0.5)


def test_a_reader_that_opens_while_another_process_commits_warns_of_nothing(
    filled, location, make_rows, recipe, monkeypatch, caplog
):
    def commit_in_between(*arguments: Any) -> int:
        number = noted_commit(*arguments)
        commit_unit(filled, make_rows("x"), recipe=recipe, run_id="run", seconds=1.0)
        return number

    monkeypatch.setattr("logitlake.storage.lake.lake.noted_commit", commit_in_between)
    with caplog.at_level(logging.WARNING), Lake.open(location) as lake:
        assert lake.n_missing_commits == 0
    assert caplog.messages == []


def test_the_number_of_a_note_is_read_as_it_was_written(filled, location):
    for number in (1, 10**12):
        note_commit(filled.connection, location, number)
        assert noted_commit(filled.connection, location) == number
