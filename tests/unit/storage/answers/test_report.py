"""What the report asks of the lake, against sums worked out row by row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from logitlake.storage.answers.report import distributions, fidelity, holdings
from logitlake.storage.answers.report.passages import SPAN, passages, token_texts
from logitlake.storage.answers.report.sample import take_sample
from logitlake.storage.answers.report.students import hardest_documents, students
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from tests.strange_lake import CORPORA, RECIPES, STUDENTS, make_strange_lake


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    location = make_strange_lake(tmp_path_factory.mktemp("strange") / "lake")
    with Lake.open(location) as lake:
        yield lake


@pytest.fixture(scope="module")
def positions(strange: Lake) -> list[dict[str, Any]]:
    """Every position with a target, from the rows as they are stored."""
    take_sample(strange)
    found = []
    for row in strange.sql("SELECT * FROM store.sequences").to_pylist():
        for at, (ids, codes) in enumerate(zip(row["target_ids"], row["head_codes"], strict=True)):
            if row["entropy_codes"][at] is not None:
                found.append(
                    {name: row[name] for name in ("recipe_id", "corpus", "doc_id")}
                    | {"at": at, "ids": ids, "codes": codes, "next": row["input_ids"][at + 1]}
                    | {"entropy": row["entropy_codes"][at] / 32, "surprise": row["nll_codes"][at] / 32}
                )
    return found


@pytest.mark.slow
def test_a_small_lake_is_looked_at_whole(strange: Lake, positions: list[dict[str, Any]]) -> None:
    sample = take_sample(strange)
    assert sample.whole
    assert sample.n_positions == sample.n_all_positions == len(positions)


def test_a_sample_holds_whole_units_of_every_recipe_and_is_the_same_each_time(strange: Lake) -> None:
    sample = take_sample(strange, positions=100)
    taken = strange.sql("SELECT * FROM sampled_units ORDER BY ALL").to_pylist()
    assert not sample.whole
    assert [row["recipe_id"] for row in taken] == sorted(id_of_recipe(recipe) for recipe in RECIPES)
    assert take_sample(strange, positions=100) == sample
    assert strange.sql("SELECT * FROM sampled_units ORDER BY ALL").to_pylist() == taken
    take_sample(strange)


def test_histograms_count_every_position_once_for_each_measure(strange: Lake, positions: list[dict[str, Any]]) -> None:
    rows = distributions.histograms(strange).to_pylist()
    for measure in ("entropy", "surprise"):
        for bin_ in (0.0, 2.5, 9.5):
            found = sum(row["n"] for row in rows if (row["measure"], row["bin"]) == (measure, bin_))
            assert found == sum(bin_ <= p[measure] < bin_ + 0.5 for p in positions)
        assert sum(row["n"] for row in rows if row["measure"] == measure) == len(positions)


def test_noise_is_bounded_by_tails_and_levels_and_estimated_from_draws(
    strange: Lake, positions: list[dict[str, Any]]
) -> None:
    rows = {row["recipe_id"]: row for row in fidelity.entries(strange).to_pylist()}
    varopt, drawn, cut = (id_of_recipe(recipe) for recipe in RECIPES)
    bounds, estimates = [], []
    for p in positions:
        kept = [code / 64 for code in p["codes"]]
        if p["recipe_id"] == varopt:
            n_tails = len(p["ids"]) - len(kept)
            bounds.append((1 - sum(kept)) ** 2 / n_tails + (len(kept) + 1) / (4 * 64**2))
        elif p["recipe_id"] == drawn:
            estimates.append((1 - sum(q * q for q in kept)) / 63)
    assert rows[varopt]["noise"] == pytest.approx(sum(bounds) / len(bounds))
    assert rows[drawn]["noise"] == pytest.approx(sum(estimates) / len(estimates))
    assert rows[cut]["noise"] is None


def test_calibration_leaves_out_recipes_that_draw_their_heads(strange: Lake, positions: list[dict[str, Any]]) -> None:
    rows = fidelity.calibration(strange).to_pylist()
    varopt, drawn, _ = (id_of_recipe(recipe) for recipe in RECIPES)
    assert drawn not in {row["recipe_id"] for row in rows}
    mine = [p for p in positions if p["recipe_id"] == varopt]
    found = [row for row in rows if row["recipe_id"] == varopt]
    assert sum(row["n"] for row in found) == len(mine)
    assert sum(row["n_right"] for row in found) == sum(p["ids"][0] == p["next"] for p in mine)
    assert sum(row["confident"] for row in found) == pytest.approx(sum(p["codes"][0] / 64 for p in mine))


def test_holdings_agree_with_each_other(strange: Lake) -> None:
    totals = holdings.totals(strange)
    assert totals["n_tokens"] == sum(row["n_tokens"] for row in holdings.by_corpus(strange).to_pylist())
    assert totals["n_tokens"] == sum(row["n_tokens"] for row in holdings.growth(strange).to_pylist())
    assert totals["n_tokens"] == sum(row["n_tokens"] for row in holdings.recipes(strange).to_pylist())
    assert {row["corpus"] for row in holdings.growth(strange).to_pylist()} == set(CORPORA)


def test_passages_are_the_spans_with_the_greatest_excess_surprise_of_each_recipe_and_corpus(
    strange: Lake, positions: list[dict[str, Any]]
) -> None:
    sums: dict[tuple[str, str, str, int], float] = {}
    for p in positions:
        key = (p["recipe_id"], p["corpus"], p["doc_id"], p["at"] // SPAN)
        sums[key] = sums.get(key, 0.0) + p["surprise"] - p["entropy"]
    best: dict[tuple[str, str], dict[str, float]] = {}
    for (recipe_id, corpus, doc_id, span), score in sums.items():
        if span:
            scores = best.setdefault((recipe_id, corpus), {})
            scores[doc_id] = max(score, scores.get(doc_id, score))
    found = passages(strange, total=8)
    assert len(found) == 8
    for group, scores in best.items():
        mine = [passage.score for passage in found if (passage.recipe_id, passage.corpus) == group]
        assert mine == pytest.approx(sorted(scores.values(), reverse=True)[:2])


def test_a_token_of_a_passage_is_the_one_that_its_heads_were_about(strange: Lake) -> None:
    for passage in passages(strange):
        # The maker of this lake lists the real token first among the ids of every position.
        assert all(token.heads[0][0] == token.token_id for token in passage.tokens)
        assert all(token.n_heads >= len(token.heads) for token in passage.tokens)


def test_the_text_of_every_token_that_a_passage_names_is_found(strange: Lake) -> None:
    found = passages(strange)
    texts = token_texts(strange, found)
    named = {id_ for passage in found for token in passage.tokens for id_, _ in token.heads}
    assert {("strange", token_id) for token_id in named} <= set(texts)
    row = strange.row("SELECT token FROM vocabulary WHERE token_id = ?", [found[0].tokens[0].token_id])
    assert texts["strange", found[0].tokens[0].token_id] == row["token"]


def test_students_come_oldest_first_with_decisions_and_without_those_beyond_the_limit(strange: Lake) -> None:
    found = students(strange)
    assert [row["student_id"] for row in found] == list(STUDENTS)
    assert [row["decision"] for row in found] == ["", "promoted (current)", "rejected (current)"]
    assert [row["student_id"] for row in students(strange, limit=1)] == [STUDENTS[2]]


def test_the_documents_where_a_student_is_furthest_behind_come_first(strange: Lake) -> None:
    found = hardest_documents(strange, documents=3)
    assert [row["gap"] for row in found] == pytest.approx([2.5, 2.0, 1.5])
    assert {(row["student_id"], row["n_targets"]) for row in found} == {(STUDENTS[2], 100)}
    assert all(row["corpus"] in CORPORA and "<u>file</u>" in row["source"] for row in found)


def test_an_empty_lake_answers_everything_with_nothing(lake: Lake, tmp_path: Path) -> None:
    assert take_sample(lake).n_positions == 0
    assert holdings.totals(lake)["n_tokens"] == 0
    asked = (holdings.growth, holdings.by_corpus, holdings.recipes, distributions.quantiles, fidelity.entries)
    assert all(ask(lake).num_rows == 0 for ask in asked)
    assert passages(lake) == [] and students(lake) == [] and hardest_documents(lake) == []
