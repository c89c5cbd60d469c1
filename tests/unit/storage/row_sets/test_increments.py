"""What is new to a student is told by commit numbers, and the filter made of it means the same for ever."""

import pytest

from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.row_sets.increments import Increment, has_held_out, increment_for, mixed_rows, tokenizer_of
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.students.candidates import Candidate, is_decided, note_planned, undecided
from logitlake.storage.students.promotions import promote, reject
from logitlake.storage.students.registry import register_student
from logitlake.storage.upkeep.compaction import compact, plan_compaction
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe

OLD = [f"old {number}" for number in range(40)]
NEW = [f"new {number}" for number in range(10)]


@pytest.fixture
def filled(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    commit_unit(lake, make_rows(*OLD), recipe=recipe, run_id="run", seconds=1.0)
    return lake


def _student(lake, name, parent, recipe, where=None):
    rows = resolve_row_set(lake, recipe_id=id_of_recipe(recipe), where=where)
    register_row_set(lake, rows)
    shared = {"run_id": "r", "directory": f"/{name}", "settings": {}, "metrics": {}}
    register_student(lake, student_id=name, parent_id=parent, row_set_id=rows.row_set_id, **shared)
    return rows


def test_without_a_student_everything_is_new(filled, recipe):
    found = increment_for(filled, None, id_of_recipe(recipe))
    assert (found.after, found.new_documents, found.new_tokens, found.old_tokens) == (0, 40, 240, 0)
    assert mixed_rows(found, 0.5) is None


def test_what_came_after_the_row_set_of_a_student_or_of_its_ancestors_is_new(filled, make_rows, recipe):
    _student(filled, "first", "model", recipe)
    assert increment_for(filled, "first", id_of_recipe(recipe)).new_documents == 0
    commit_unit(filled, make_rows(*NEW), recipe=recipe, run_id="run", seconds=1.0)
    found = increment_for(filled, "first", id_of_recipe(recipe))
    assert (found.new_documents, found.new_tokens, found.old_tokens) == (10, 60, 240)
    _student(filled, "second", "first", recipe, mixed_rows(found, 0.5))
    assert increment_for(filled, "second", id_of_recipe(recipe)).new_documents == 0


def test_another_recipe_is_new_from_its_first_commit_on(filled, make_rows, recipe):
    other = {**recipe, "teacher": {"name": "big"}}
    register_recipe(filled, other)
    commit_unit(filled, make_rows(*NEW, recipe=other), recipe=other, run_id="run", seconds=1.0)
    commit_unit(filled, make_rows("last"), recipe=recipe, run_id="run", seconds=1.0)
    _student(filled, "first", "model", recipe)
    found = increment_for(filled, "first", id_of_recipe(other))
    assert (found.after, found.new_documents, found.old_tokens) == (0, 10, 0)
    assert tokenizer_of(filled, "first") == recipe["tokenizer"]


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.25, 1, 12), (0.5, 4, 20), (0.99, 40, 40)])
def test_the_replay_is_about_its_share_of_the_tokens(filled, make_rows, recipe, share, low, high):
    after = filled.commit_number
    commit_unit(filled, make_rows(*NEW), recipe=recipe, run_id="run", seconds=1.0)
    found = Increment(after=after, up_to=after + 1, new_documents=10, new_tokens=60, old_tokens=240)
    rows = resolve_row_set(filled, recipe_id=id_of_recipe(recipe), where=mixed_rows(found, share))
    replayed = rows.n_sequences // 2 - len(NEW)
    assert low <= replayed <= high


def test_every_night_replays_others():
    nights = [Increment(after=1, up_to=n, new_documents=1, new_tokens=10, old_tokens=100) for n in (2, 3)]
    first, second = (mixed_rows(night, 0.5) for night in nights)
    assert first is not None and first.replace(":2'", ":3'") == second


def test_a_filter_of_the_settings_holds_for_new_rows_and_replay_alike():
    night = Increment(after=1, up_to=2, new_documents=1, new_tokens=10, old_tokens=100)
    assert mixed_rows(night, 0.5, where="corpus = 'a' OR false").startswith("(corpus = 'a' OR false) AND (commit_")


def test_a_mixed_row_set_is_the_same_after_upkeep_and_more_nights(filled, make_rows, recipe):
    _student(filled, "first", "model", recipe)
    commit_unit(filled, make_rows(*NEW), recipe=recipe, run_id="run", seconds=1.0)
    where = mixed_rows(increment_for(filled, "first", id_of_recipe(recipe)), 0.5)
    before = _student(filled, "second", "first", recipe, where)
    commit_unit(filled, make_rows("later"), recipe=recipe, run_id="run", seconds=1.0)
    for merge in plan_compaction(filled, target_bytes=1 << 30):
        compact(filled, merge)
    again = resolve_row_set(
        filled, recipe_id=id_of_recipe(recipe), where=before.where, up_to_commit=before.up_to_commit
    )
    assert again.row_set_id == before.row_set_id


def test_forgotten_documents_are_not_counted(filled, recipe):
    forget(filled, [document_id(OLD[0])], reason="asked")
    assert increment_for(filled, None, id_of_recipe(recipe)).new_documents == 39


def test_a_lake_without_held_out_documents_says_so(filled, recipe):
    assert not has_held_out(filled, id_of_recipe(recipe))


def test_what_was_planned_and_not_decided_is_found_again_for_the_same_current_student_only(lake):
    shared = {"alias": "current", "recipe_id": "r", "row_set_id": "s", "where": None}
    first = Candidate(student_id="a", current=None, up_to_commit=1, **shared)
    second = Candidate(student_id="b", current="a", up_to_commit=2, **shared)
    third = Candidate(student_id="c", current="a", up_to_commit=3, **shared)
    for candidate in (third, first, second, second):
        note_planned(lake, "run", candidate)
    assert undecided(lake, "current", None) == [first]
    promote(lake, "a", expected=None, figures={}, run_id="run")
    assert undecided(lake, "current", None) == []
    assert undecided(lake, "current", "a") == [second, third]
    assert undecided(lake, "other", "a") == []
    reject(lake, "b", figures={}, run_id="run")
    assert undecided(lake, "current", "a") == [third] and is_decided(lake, "b", "current")
