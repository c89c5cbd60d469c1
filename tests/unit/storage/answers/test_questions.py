"""The views that answer questions, checked against slow and obvious references."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.schema.sequences import SEQUENCES
from logitlake.storage.students.registry import register_student
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe

LEVELS = 1000


def top_rows(recipe: dict[str, Any], distributions: dict[str, np.ndarray], k: int) -> pa.Table:
    """One sequence per document whose targets keep the k likeliest ids; `distributions[name]` is [position, id]."""
    rows = []
    for name, p in distributions.items():
        ids = [np.argsort(-row)[:k].tolist() for row in p]
        codes = [[round(float(row[i]) * LEVELS) for i in kept] for row, kept in zip(p, ids, strict=True)]
        statistics = [32] * len(p)
        rows.append(
            {
                "recipe_id": id_of_recipe(recipe),
                "doc_id": document_id(name),
                "unit_id": "",
                "corpus": "c",
                "source": name,
                "window_index": 0,
                "start": 0,
                "n_tokens": len(p) + 1,
                "n_targets": len(p),
                "levels": LEVELS,
                "input_ids": list(range(len(p) + 1)),
                "target_ids": [*ids, []],
                "head_codes": [*codes, []],
                "entropy_codes": [*statistics, None],
                "nll_codes": [*statistics, None],
                "mean_entropy": 1.0,
                "mean_nll": 1.0,
                "checksum": "",
            }
        )
    return pa.Table.from_pylist(rows, SEQUENCES)


def rounded(random: np.random.Generator, positions: int, ids: int = 12) -> np.ndarray:
    """Distributions that are exact multiples of 1/LEVELS, so that nothing is lost to rounding."""
    counts = random.multinomial(LEVELS - ids, random.dirichlet(np.full(ids, 0.4), positions)) + 1
    return counts / LEVELS


@pytest.fixture
def two_teachers(lake, recipe):
    """A lake in which two teachers cached the same documents, and the distributions that each had."""
    random = np.random.default_rng(0)
    teachers = []
    for name in ("small", "large"):
        own = recipe | {"teacher": {"name": name}, "sparsifier": {"name": "top_k", "k": 5}}
        register_recipe(lake, own)
        p = {document: rounded(random, 6) for document in ("a", "b")}
        commit_unit(lake, top_rows(own, p, 5), recipe=own, run_id="run", seconds=1.0)
        teachers.append((id_of_recipe(own), p))
    return lake, dict(sorted(teachers))


def test_the_true_disagreement_lies_within_its_bounds_at_every_position(two_teachers):
    lake, teachers = two_teachers
    (a, p_of), (b, q_of) = teachers.items()
    rows = lake.sql("SELECT * FROM disagreement").to_pylist()
    assert len(rows) == 12
    assert {(row["recipe_a"], row["recipe_b"]) for row in rows} == {(a, b)}
    names = {document_id(name): name for name in ("a", "b")}
    for row in rows:
        p, q = (of[names[row["doc_id"]]][row["position"] - 1] for of in (p_of, q_of))
        common = sorted(set(np.argsort(-p)[:5]) & set(np.argsort(-q)[:5]))
        assert row["n_common"] == len(common)
        assert row["common_a"] == pytest.approx(p[common].sum())
        assert row["common_b"] == pytest.approx(q[common].sum())
        variation = np.abs(p - q).sum() / 2
        assert row["tv_at_least"] - 1e-9 <= variation <= row["tv_at_most"] + 1e-9
        assert 0 <= row["kl_ab_at_least"] <= (p * np.log(p / q)).sum() + 1e-9
        assert 0 <= row["kl_ba_at_least"] <= (q * np.log(q / p)).sum() + 1e-9
        rest = abs(p[common].sum() - q[common].sum())
        assert row["tv_at_least"] == pytest.approx((np.abs(p[common] - q[common]).sum() + rest) / 2)
        assert (row["likeliest_a"], row["likeliest_b"]) == (p.argmax(), q.argmax())


def test_with_every_id_kept_the_bounds_meet_in_the_exact_values(lake, recipe):
    random = np.random.default_rng(1)
    for name in ("small", "large"):
        own = recipe | {"teacher": {"name": name}}
        register_recipe(lake, own)
        commit_unit(lake, top_rows(own, {"a": rounded(random, 4)}, 12), recipe=own, run_id="run", seconds=1.0)
    for row in lake.sql("SELECT * FROM disagreement").to_pylist():
        assert row["tv_at_least"] == pytest.approx(row["tv_at_most"])
        assert row["n_common"] == 12


@pytest.mark.parametrize(
    "other",
    [{"tokenizer": "other"}, {"temperature": 2.0}, {"sparsifier": {"name": "random", "draws": 50}}],
)
def test_teachers_that_can_not_be_compared_are_not(lake, make_rows, recipe, other):
    for own in (recipe, recipe | other):
        register_recipe(lake, own)
        commit_unit(lake, make_rows("a", recipe=own), recipe=own, run_id="run", seconds=1.0)
    assert lake.sql("SELECT * FROM disagreement").num_rows == 0


def test_a_teacher_is_calibrated_where_its_heads_happen_as_often_as_it_says(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    commit_unit(lake, make_rows("a"), recipe=recipe, run_id="run", seconds=1.0)
    # Each window: heads 6 (1/2) and 9 (1/4) for a real 6; head 7 (3/4) for a real 7 in one window and 8 in the other.
    rows = lake.sql("SELECT bin, n, predicted, observed, gap FROM calibration ORDER BY bin").to_pylist()
    assert rows == [
        {"bin": 2, "n": 2, "predicted": 0.25, "observed": 0.0, "gap": -0.25},
        {"bin": 5, "n": 2, "predicted": 0.5, "observed": 1.0, "gap": 0.5},
        {"bin": 7, "n": 2, "predicted": 0.75, "observed": 0.5, "gap": -0.25},
    ]


def test_near_duplicates_are_found_and_their_similarity_is_about_right(lake, make_rows, recipe):
    random = np.random.default_rng(0)
    base = random.integers(0, 5000, 4000).tolist()
    texts = {"one": base, "two": base[:3000] + random.integers(0, 5000, 1000).tolist()}
    texts["three"] = random.integers(0, 5000, 4000).tolist()
    rows = []
    for name, ids in texts.items():
        row = make_rows(name).to_pylist()[0]
        empty = [[] for _ in ids]
        row |= {"n_tokens": len(ids), "n_targets": 0, "input_ids": ids, "target_ids": empty, "head_codes": empty}
        rows.append(row | {"entropy_codes": [None] * len(ids), "nll_codes": [None] * len(ids)})
    register_recipe(lake, recipe)
    commit_unit(lake, pa.Table.from_pylist(rows, SEQUENCES), recipe=recipe, run_id="run", seconds=1.0)
    runs = {name: {tuple(ids[i : i + 8]) for i in range(len(ids) - 7)} for name, ids in texts.items()}
    for row in (found := lake.sql("SELECT * FROM near_duplicates").to_pylist()):
        assert {row["doc_a"], row["doc_b"]} == {document_id("one"), document_id("two")}
        truth = len(runs["one"] & runs["two"]) / len(runs["one"] | runs["two"])
        assert row["jaccard"] == pytest.approx(truth, abs=0.1)
    assert len(found) == 1


def test_growth_adds_up(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    for name in ("a", "b"):
        commit_unit(lake, make_rows(name), recipe=recipe, run_id="run", seconds=1.5)
    rows = lake.sql("SELECT n_commits, n_tokens, tokens_so_far, teacher_seconds FROM growth ORDER BY day").to_pylist()
    assert sum(row["n_commits"] for row in rows) == 2
    assert rows[-1]["tokens_so_far"] == sum(row["n_tokens"] for row in rows) == 12
    assert sum(row["teacher_seconds"] for row in rows) == 3.0


@pytest.mark.parametrize("where", [None, "doc_id <> '" + document_id("b") + "'"])
def test_who_trained_on_a_document_is_what_the_row_sets_say(location, make_rows, recipe, where):
    names = [f"document {number}" for number in range(20)] + ["b"]
    with Lake.create(location, held_out_salt="s", held_out_share=0.3) as lake:
        register_recipe(lake, recipe)
        commit_unit(lake, make_rows(*names), recipe=recipe, run_id="run", seconds=1.0)
        rows = resolve_row_set(lake, recipe_id=id_of_recipe(recipe), where=where)
        commit_unit(lake, make_rows("later"), recipe=recipe, run_id="run", seconds=1.0)
        register_row_set(lake, rows)
        for own, parent in (("parent", "weights"), ("child", "parent")):
            student = {"student_id": own, "parent_id": parent, "run_id": "r", "directory": "/d"}
            row_set_id = rows.row_set_id if own == "parent" else "unknown"
            register_student(lake, row_set_id=row_set_id, settings={}, metrics={}, **student)
        condition = f"AND {where}" if where else ""
        expected = lake.sql(
            f"SELECT DISTINCT doc_id FROM sequences WHERE NOT held_out AND doc_id <> ? {condition}",
            [document_id("later")],
        )
        found = lake.sql("SELECT * FROM trained_on").to_pylist()
    ids = expected["doc_id"].to_pylist()
    assert 5 < len(ids) < len(names)
    assert {(row["doc_id"], row["student_id"], row["depth"]) for row in found} == {
        (doc_id, student, depth) for doc_id in ids for student, depth in (("parent", 0), ("child", 1))
    }


def test_every_view_and_every_column_has_a_note_and_no_note_is_left_over(lake):
    views = lake.sql("SELECT view_name FROM duckdb_views() WHERE database_name = 'lake' AND schema_name = 'main'")
    real = {
        (view, column)
        for view in views["view_name"].to_pylist()
        for column in [None, *lake.sql(f"DESCRIBE {view}")["column_name"].to_pylist()]
    }
    noted = lake.sql("SELECT name, column_name, note FROM dictionary").to_pylist()
    assert {(row["name"], row["column_name"]) for row in noted if "(" not in row["name"]} == real
    assert all(len(row["note"]) > 4 and row["note"][-1] == "." for row in noted)
    macros = [
        f"{name}{parameters}"
        for name, body in re.findall(
            r"CREATE OR REPLACE MACRO (\w+)(.*?);", Path("storage/lake/views.sql").read_text("utf-8"), re.DOTALL
        )
        for parameters in re.findall(r"(?:^|, )(\([\w, ]+\)) AS", body)
    ]
    assert sorted(row["name"] for row in noted if "(" in row["name"]) == sorted(macros)
    assert len(noted) == len({(row["name"], row["column_name"]) for row in noted})


def test_every_view_carries_its_note_as_a_comment(lake):
    rows = lake.sql(
        """
        SELECT view_name, comment, note FROM duckdb_views() AS v
        JOIN dictionary AS d ON d.name = v.view_name AND d.column_name IS NULL
        WHERE v.database_name = 'lake' AND v.schema_name = 'main'
        """
    ).to_pylist()
    assert rows and all(row["comment"] == row["note"] for row in rows)


def test_the_text_around_a_position_is_read_from_its_row(lake, make_rows, recipe):
    from logitlake.storage.writing.recipes import register_vocabulary

    register_recipe(lake, recipe)
    register_vocabulary(lake, "words", [f"<{number}>" for number in range(12)], set())
    commit_unit(lake, make_rows("a"), recipe=recipe, run_id="run", seconds=1.0)
    rows = lake.sql(
        """
        SELECT
            p.position, p.token, text_of(ids_before(s.input_ids, s.start, p.position, 2), r.tokenizer_id) AS before,
            text_of(ids_after(s.input_ids, s.start, p.position, 2), r.tokenizer_id) AS after
        FROM positions AS p
        JOIN sequences AS s USING (recipe_id, doc_id, window_index)
        JOIN recipes AS r USING (recipe_id)
        ORDER BY p.position
        """
    ).to_pylist()
    assert [(row["position"], row["before"], row["token"], row["after"]) for row in rows] == [
        (1, "<5>", "<6>", "<7>"),
        (2, "<5><6>", "<7>", None),
        (4, "<5>", "<6>", "<8>"),
        (5, "<5><6>", "<8>", None),
    ]
