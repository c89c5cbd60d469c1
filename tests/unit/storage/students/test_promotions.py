"""An alias changes at once or not at all, and there is always a way back."""

import pytest

from logitlake.storage.errors import LakeBusyError, LakeError
from logitlake.storage.students.promotions import promote, reject, roll_back, student_of
from logitlake.storage.students.registry import named_student, register_student


def _promote(lake, student_id):
    promote(lake, student_id, expected=student_of(lake), figures={"loss": 1.0}, run_id="run")


def test_an_alias_stands_for_the_last_student_promoted(lake):
    assert student_of(lake) is None
    _promote(lake, "first")
    _promote(lake, "second")
    assert student_of(lake) == "second" and student_of(lake, "other") is None


def test_a_rejected_candidate_changes_nothing_and_is_on_record_once(lake):
    _promote(lake, "first")
    for _ in range(2):
        reject(lake, "worse", figures={"loss": 9.0}, run_id="run")
    assert student_of(lake) == "first"
    rows = lake.sql("SELECT student_id, figures FROM promotions WHERE decision = 'rejected'").to_pylist()
    assert rows == [{"student_id": "worse", "figures": '{"loss": 9.0}'}]


def test_promoting_twice_is_promoting_once(lake):
    for _ in range(2):
        _promote(lake, "first")
    assert lake.row("SELECT count(*) AS n FROM promotions")["n"] == 1


def test_a_promotion_that_was_compared_with_another_student_is_refused(lake):
    _promote(lake, "first")
    with pytest.raises(LakeBusyError, match="expected None, found first"):
        promote(lake, "second", expected=None, figures={}, run_id="run")
    assert student_of(lake) == "first"


def _roll_back(lake):
    return roll_back(lake, expected=student_of(lake), run_id="run")


def test_rolling_back_goes_one_student_back_each_time(lake):
    for name in ("first", "second", "third"):
        _promote(lake, name)
    assert [_roll_back(lake), student_of(lake)] == ["second", "second"]
    assert [_roll_back(lake), student_of(lake)] == ["first", "first"]
    with pytest.raises(LakeError, match="no student before"):
        _roll_back(lake)
    _promote(lake, "fourth")
    assert _roll_back(lake) == "first"


def test_a_rollback_whose_answer_was_lost_goes_back_once_however_often_it_is_asked_for(lake):
    for name in ("first", "second", "third"):
        _promote(lake, name)
    assert [roll_back(lake, expected="third", run_id="run") for _ in range(3)] == ["second"] * 3
    assert student_of(lake) == "second"
    assert lake.row("SELECT count(*) AS n FROM promotions WHERE decision = 'rolled back'")["n"] == 1


def test_a_rollback_from_a_student_that_is_no_longer_current_is_refused(lake):
    for name in ("first", "second", "third"):
        _promote(lake, name)
    with pytest.raises(LakeBusyError, match="expected second, found third"):
        roll_back(lake, expected="second", run_id="run")
    assert student_of(lake) == "third"


def test_there_is_nothing_to_go_back_to_before_the_first_promotion(lake):
    with pytest.raises(LakeError, match="no student before"):
        roll_back(lake, expected=None, run_id="run")


def test_the_beginning_of_an_id_names_one_student_or_none(lake):
    for student_id in ("ab1", "ab2", "c"):
        facts = {"parent_id": "p", "row_set_id": "r", "run_id": "run", "directory": "d", "settings": {}, "metrics": {}}
        register_student(lake, student_id=student_id, **facts)
    assert named_student(lake, "ab2")["student_id"] == "ab2"
    assert named_student(lake, "c")["student_id"] == "c"
    for name, words in (("ab", "matches 2 students: ab1, ab2"), ("z", "no student"), ("", "no student")):
        with pytest.raises(LakeError, match=words):
            named_student(lake, name)
    promote(lake, "ab1", expected=None, figures={}, run_id="run")
    assert named_student(lake, "current")["student_id"] == "ab1"
