"""The lake as it was: told by commit numbers, which stay with the rows, and not by snapshots, which expire."""

import shutil

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import QueryError
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.sql.scope import Scope, narrow
from logitlake.storage.sql.session import ReadSession
from logitlake.storage.students.registry import register_student
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary
from tests.unit.storage.conftest import RECIPE

SHOWN = {
    "sequences": "SELECT doc_id, window_index, commit_number FROM sequences ORDER BY ALL",
    "documents": "SELECT doc_id, sources FROM documents ORDER BY ALL",
    "positions": "SELECT doc_id, position, token, entropy FROM positions ORDER BY ALL",
    "targets": "SELECT doc_id, position, token_id, probability FROM targets ORDER BY ALL",
    "recipes": "SELECT recipe_id, n_tokens::BIGINT AS n_tokens FROM recipes ORDER BY ALL",
    "growth": "SELECT n_tokens FROM growth ORDER BY ALL",
    "students": "SELECT student_id FROM students ORDER BY ALL",
    "trained_on": "SELECT * FROM trained_on ORDER BY ALL",
}


def shown(location, as_of=None):
    with ReadSession(location, as_of=as_of) as session:
        return {name: session.ask(sql).to_pylist() for name, sql in SHOWN.items()}, session.forgotten_since


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_rows):
    """Commits with a student in between: the directory, and what the lake looked like after each, by commit number."""
    location = LakeLocation.resolve(tmp_path_factory.mktemp("history") / "lake")
    looks = {}
    with Lake.create(location, held_out_salt="salt", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        register_vocabulary(lake, "words", [f"t{number}" for number in range(12)], {0})
        for names in (("a", "b"), ("c",), ("d", "e")):
            commit_unit(lake, make_rows(*names), recipe=RECIPE, run_id="run", seconds=1.0)
            rows = resolve_row_set(lake, recipe_id=id_of_recipe(RECIPE))
            register_row_set(lake, rows)
            student = {"student_id": f"after {names[0]}", "parent_id": "p", "run_id": "r", "directory": "/d"}
            register_student(lake, row_set_id=rows.row_set_id, settings={}, metrics={}, **student)
            looks[lake.commit_number] = shown(location)[0]
    return location.state_directory, looks


@pytest.fixture
def history(made, location):
    """A copy of that lake, open for writing, and what it looked like."""
    directory, looks = made
    shutil.copytree(directory, location.state_directory)
    with Lake.open(location, read_only=False) as lake:
        yield lake, looks


def test_every_view_shows_the_lake_as_it_was_at_each_commit(history, location):
    _, looks = history
    assert len({str(look) for look in looks.values()}) == 3
    for number, look in looks.items():
        assert shown(location, as_of=number) == (look, 0)


def test_before_the_first_commit_there_is_nothing(history, location):
    look, _ = shown(location, as_of=0)
    assert look["sequences"] == look["documents"] == look["students"] == []


def test_what_was_forgotten_since_is_missing_and_counted(history, location):
    lake, looks = history
    forget(lake, [document_id("a")], reason="asked")
    first = min(looks)
    look, n_forgotten = shown(location, as_of=first)
    assert n_forgotten == 1
    assert {row["doc_id"] for row in look["sequences"]} == {document_id("b")}
    assert shown(location, as_of=max(looks))[1] == 1
    assert shown(location, as_of=lake.commit_number)[1] == 0


def test_expired_snapshots_change_nothing(history, location):
    lake, looks = history
    lake.sql("CALL ducklake_expire_snapshots('lake', older_than => now())")
    for number, look in looks.items():
        assert shown(location, as_of=number)[0] == look


@pytest.mark.parametrize("number", [-1, 10_000])
def test_a_commit_that_is_not_there_is_refused_with_the_last_one(history, location, number):
    with pytest.raises(QueryError, match="the last commit is"):
        ReadSession(location, as_of=number)


def test_todays_rows_can_not_be_named_in_yesterdays_lake(history, location):
    with ReadSession(location, as_of=3) as session:
        for name in ("lake.sequences", "lake.store.sequences", "lake.main.sequences"):
            with pytest.raises(QueryError, match="lake"):
                session.ask(f"SELECT * FROM {name}")


def test_without_the_held_out_documents_no_view_shows_one(location, make_rows, recipe):
    names = [f"document {number}" for number in range(30)]
    with Lake.create(location, held_out_salt="s", held_out_share=0.4) as lake:
        register_recipe(lake, recipe)
        commit_unit(lake, make_rows(*names), recipe=recipe, run_id="run", seconds=1.0)
        ids = {
            held: set(lake.sql(f"SELECT doc_id FROM documents WHERE {held}")["doc_id"].to_pylist()) for held in RULES
        }
        narrow(lake, Scope(held_out=False))
        views = lake.sql(
            """
            SELECT DISTINCT name, column_name FROM dictionary
            WHERE column_name IN ('doc_id', 'doc_a', 'doc_b') AND name NOT IN ('forgotten')
            """
        ).to_pylist()
        assert len(views) >= 12
        for row in views:
            found = lake.sql(f"SELECT DISTINCT {row['column_name']} AS doc_id FROM {row['name']}")["doc_id"]
            assert not ids["held_out"] & set(found.to_pylist()), row["name"]
        seen = set(lake.sql("SELECT doc_id FROM sequences")["doc_id"].to_pylist())
        assert seen == ids["NOT held_out"]


RULES = ("held_out", "NOT held_out")
