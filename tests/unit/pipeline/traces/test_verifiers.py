"""What each verifier keeps, drops and scores."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from logitlake.pipeline.settings.verifier import Case, Judgement, VerifierSettings
from logitlake.pipeline.traces.verifiers.exact_answer import final_answer, same_answer
from logitlake.storage.errors import SettingsError

CASE = Case(doc_id="d" * 64, prompt="2 + 2?", completion="It is 4.", reference="4", finished=True)


def score(verifier: VerifierSettings, completion: str, reference: str | None = "4") -> float:
    (judgement,) = verifier.judge([replace(CASE, completion=completion, reference=reference)])
    assert judgement is not None
    return judgement.score


def test_without_a_verifier_every_trace_is_kept() -> None:
    verifier = VerifierSettings()
    assert verifier.name == "none"
    assert verifier.keeps(CASE, Judgement(score=score(verifier, "anything")))


def test_cut_traces_are_dropped_if_the_settings_say_so() -> None:
    cut = replace(CASE, finished=False)
    judgement = Judgement(score=1.0)
    assert VerifierSettings().keeps(cut, judgement)
    assert not VerifierSettings(only_finished=True).keeps(cut, judgement)
    assert VerifierSettings(only_finished=True).keeps(CASE, judgement)


def test_without_a_smallest_score_all_are_kept_with_their_score() -> None:
    assert VerifierSettings(min_score=None).keeps(CASE, Judgement(score=-5.0))
    assert not VerifierSettings(min_score=0.5).keeps(CASE, Judgement(score=0.4))


@pytest.mark.parametrize(
    ("completion", "reference", "right"),
    [
        ("so the answer is \\boxed{4}", "4", True),
        ("first \\boxed{3}, no: \\boxed{\\frac{1}{2}}", "\\boxed{\\frac{1}{2}}", True),
        ("\\boxed{4", "4", True),
        ("We have 7 apples.\n#### 1,234", "she pays 12\n#### 1234.0", True),
        ("it costs $4.00.", "4", True),
        ("0.5", "1/2", True),
        ("14", "4", False),
        ("-4", "4", False),
        ("Paris", "paris.", True),
        ("I do not know", "4", False),
        ("", "4", False),
        ("9" * 100_000, "4", False),
        ("#### 42\nThanks", "42", True),
        ("####\n42", "#### 42", True),
    ],
)
def test_the_final_answer_is_compared_by_value(completion: str, reference: str, right: bool) -> None:
    assert score(VerifierSettings(name="exact_answer"), completion, reference) == float(right)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1,2", "12", False),
        ("(1, 2)", "(12)", False),
        ("1 2", "12", False),
        ("1 1/2", "11/2", False),
        ("1\\,2", "12", False),
        ("x, y", "xy", False),
        ("1,23", "123", False),
        ("1,2345", "12345", False),
        ("100, 200", "100200", False),
        ("(1, 2)", "(1,2)", True),
        ("(100, 200)", "(100,200)", True),
        ("1,234,567.5", "$1234567.50", True),
        ("10,\\!080", "10080", True),
        ("10\\,080", "10080", True),
        ("10{,}080", "10,080.", True),
        ("\\$1,234", "1234", True),
        ("1,234 apples", "1234apples", True),
        ("x + 1", "x+1", True),
        ("- 4", "-4.0", True),
        ("1 / 2", ".5", True),
        ("New  York", "newyork", True),
    ],
)
def test_a_separator_between_digits_counts_unless_it_separates_thousands(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other) is same_answer(other, one) is same


def test_the_place_of_the_answer_can_be_named() -> None:
    text = "a 1\nb \\boxed{2}\n#### 3\nc 4\n"
    places = {"boxed": "2", "hashes": "3", "number": "4", "last_line": "c 4", "whole": text.strip(), "auto": "2"}
    for place, answer in places.items():
        assert final_answer(text, place) == answer  # type: ignore[arg-type]
    assert not same_answer("1/0", "1/00")


def test_a_verifier_that_needs_a_reference_says_how_to_give_one() -> None:
    for name in ("exact_answer", "code"):
        with pytest.raises(SettingsError, match="completion_field"):
            VerifierSettings(name=name).judge([replace(CASE, reference=None)])


def test_a_pattern_is_searched_or_must_be_absent() -> None:
    assert score(VerifierSettings(name="regex", pattern="(?i)IT is"), "It is 4.") == 1
    assert score(VerifierSettings(name="regex", pattern="five"), "It is 4.") == 0
    assert score(VerifierSettings(name="regex", pattern="five", absent=True), "It is 4.") == 1
    with pytest.raises(ValidationError, match="regular expression"):
        VerifierSettings(name="regex", pattern="(")


def test_a_function_of_ones_own_gives_the_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_verifier_of_a_test.py").write_text(
        "def length(case):\n    return len(case.completion), 'characters'\ndef bad(case):\n    return 'x'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    verifier = VerifierSettings(name="function", call="own_verifier_of_a_test:length")
    assert verifier.judge([CASE]) == [Judgement(score=8.0, reason="characters")]
    with pytest.raises(SettingsError, match="expected a number"):
        VerifierSettings(name="function", call="own_verifier_of_a_test:bad").judge([CASE])
    with pytest.raises(SettingsError, match="can't import"):
        VerifierSettings(name="function", call="own_verifier_of_a_test:none").judge([CASE])


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_reward_is_looked_up_and_a_trace_without_one_waits(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rewards{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"doc_id": [CASE.doc_id], "reward": [0.75]}), path)
    elif suffix == ".csv":
        path.write_text(f"doc_id,reward\n{CASE.doc_id},0.75\n")
    else:
        path.write_text(f'{{"doc_id": "{CASE.doc_id}", "reward": 0.75}}\n')
    verifier = VerifierSettings(name="reward", file=str(path), min_score=0.5)
    first, second = verifier.judge([CASE, replace(CASE, doc_id="e" * 64)])
    assert first == Judgement(score=0.75, reason="reward") and second is None
    with pytest.raises(SettingsError, match="expected columns doc_id and points"):
        VerifierSettings(name="reward", file=str(path), score_column="points").judge([CASE])


def test_new_scores_in_the_same_file_are_another_verifier_and_the_same_in_another_are_not(tmp_path: Path) -> None:
    def verifier(name: str, reward: float) -> VerifierSettings:
        (tmp_path / name).write_text(f"doc_id,reward\n{CASE.doc_id},{reward}\n")
        read = VerifierSettings(name="reward", file=str(tmp_path / name))
        assert read.judge([CASE]) == [Judgement(score=reward, reason="reward")]
        return read

    first, changed, moved = verifier("a.csv", 0.25), verifier("a.csv", 0.5), verifier("b.csv", 0.25)
    assert first.verifier_id == moved.verifier_id != changed.verifier_id
    with pytest.raises(SettingsError, match=r"c\.csv: can't be read"):
        VerifierSettings(name="reward", file=str(tmp_path / "c.csv")).record()


def test_a_run_judges_by_the_scores_whose_hash_it_records(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"doc_id,reward\n{CASE.doc_id},0.25\n")
    verifier = VerifierSettings(name="reward", file=str(path))
    before = verifier.verifier_id
    path.write_text(f"doc_id,reward\n{CASE.doc_id},0.5\n")
    assert verifier.judge([CASE]) == [Judgement(score=0.25, reason="reward")] and verifier.verifier_id == before


def test_another_setting_is_another_verifier() -> None:
    ids = {
        VerifierSettings(name="regex", pattern=pattern, min_score=score).verifier_id
        for pattern in ("a", "b")
        for score in (0.0, 1.0)
    }
    assert len(ids) == 4


def test_how_many_programs_run_at_once_makes_no_other_verifier() -> None:
    one, two = (VerifierSettings(name="code", workers=workers) for workers in (1, 2))
    assert one.verifier_id == two.verifier_id != VerifierSettings(name="code", seconds=1).verifier_id
