"""The SQL face, checked against rows that a person can work out by hand."""

import json
import math

import pyarrow as pa
import pytest

from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.schema.sequences import SEQUENCES, with_checksums
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary


@pytest.fixture
def filled(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    register_vocabulary(lake, "words", [f"t{number}" for number in range(12)], {0})
    commit_unit(lake, make_rows("a", "b"), recipe=recipe, run_id="run", seconds=1.0)
    return lake


def test_a_position_speaks_of_the_token_at_it_and_of_what_the_teacher_thought_before(filled):
    rows = filled.sql(
        "SELECT * FROM positions WHERE doc_id = ? ORDER BY window_index, position", [document_id("a")]
    ).to_pylist()
    assert [(row["position"], row["token"]) for row in rows] == [(1, "t6"), (2, "t7"), (4, "t6"), (5, "t8")]
    assert [(row["entropy"], row["logprob"]) for row in rows[:2]] == [(1.0, -0.5), (2.0, -0.25)]
    assert [(row["n_heads"], row["n_tails"], row["residual_mass"]) for row in rows[:2]] == [(2, 1, 0.25), (1, 2, 0.25)]


def _with_lists(make_rows, name, ids, codes):
    """Rows of one document with these lists at the position before token 6."""
    rows = make_rows(name).to_pylist()
    rows[0]["target_ids"][0], rows[0]["head_codes"][0] = ids, codes
    return pa.Table.from_pylist(rows, SEQUENCES)


def test_the_likeliest_token_is_the_first_head_and_a_position_without_heads_is_not_correct(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    register_vocabulary(lake, "words", [f"t{number}" for number in range(12)], {0})
    cases = {"right": ([6, 9], [40, 8]), "wrong": ([9, 6], [40, 8]), "tails": ([6, 6, 9], [])}
    rows = pa.concat_tables([_with_lists(make_rows, name, *lists) for name, lists in cases.items()])
    commit_unit(lake, with_checksums(rows), recipe=recipe, run_id="run", seconds=1.0)
    question = "SELECT doc_id, likeliest_id, likeliest, correct FROM positions WHERE position = 1 AND window_index = 0"
    answers = {row.pop("doc_id"): tuple(row.values()) for row in lake.sql(question).to_pylist()}
    assert answers == {
        document_id("right"): (6, "t6", True),
        document_id("wrong"): (9, "t9", False),
        document_id("tails"): (None, None, False),
    }


def test_of_counts_of_draws_nobody_says_which_token_is_likeliest(lake, make_rows, recipe):
    drawn = recipe | {"sparsifier": {"name": "random", "draws": 8}}
    rows = [row | {"recipe_id": register_recipe(lake, drawn)} for row in make_rows("a").to_pylist()]
    table = with_checksums(pa.Table.from_pylist(rows, SEQUENCES))
    commit_unit(lake, table, recipe=drawn, run_id="run", seconds=1.0)
    row = lake.row("SELECT count(*) AS n, count(correct) AS told, count(likeliest_id) AS named FROM positions")
    assert row == {"n": 4, "told": 0, "named": 0}


def test_a_document_is_shown_with_its_beginning_and_its_means(filled):
    row = filled.row("SELECT * FROM document_texts WHERE doc_id = ?", [document_id("a")])
    whole = filled.row(
        "SELECT avg(logprob) AS logprob, count(*) AS n FROM statistics WHERE doc_id = ?", [row["doc_id"]]
    )
    ids = filled.row("SELECT input_ids FROM sequences WHERE doc_id = ? AND window_index = 0", [row["doc_id"]])
    assert row["n_targets"] == whole["n"]
    # Token 0 is a control token.
    assert row["beginning"] == "".join(f"t{number}" for number in ids["input_ids"] if number)
    stored = filled.row(
        "SELECT -sum(mean_nll * n_targets) / sum(n_targets) AS mean FROM store.sequences WHERE doc_id = ?",
        [row["doc_id"]],
    )
    assert row["mean_logprob"] == pytest.approx(stored["mean"])
    listed = filled.row("SELECT source, sources FROM documents WHERE doc_id = ?", [row["doc_id"]])
    assert listed["sources"] is None or listed["source"] == listed["sources"][0]


def test_a_document_whose_first_window_has_no_targets_begins_with_the_first_one_that_is_stored(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    register_vocabulary(lake, "words", [f"t{number}" for number in range(12)], {0})
    later = [row for row in make_rows("long prompt").to_pylist() if row["window_index"] > 0]
    assert later
    rows = with_checksums(pa.Table.from_pylist(later, SEQUENCES))
    commit_unit(lake, rows, recipe=recipe, run_id="run", seconds=1.0)
    row = lake.row("SELECT beginning, corpus, source FROM document_texts")
    assert row["beginning"] == "".join(f"t{number}" for number in later[0]["input_ids"] if number)
    assert row["source"] == f"{row['corpus']}/{later[0]['source']}"


def test_heads_and_tails_sum_to_one_at_every_position(filled):
    sums = filled.sql("SELECT sum(probability) AS p FROM targets GROUP BY doc_id, window_index, position")[
        "p"
    ].to_pylist()
    assert len(sums) == 8 and all(math.isclose(total, 1.0) for total in sums)


def test_heads_come_by_rank_with_their_own_probability_and_tails_share_the_residual(filled):
    where = "WHERE doc_id = ? AND window_index = 0 AND position = 1"
    heads = filled.sql(f"SELECT rank, token, probability, logprob FROM heads {where} ORDER BY rank", [document_id("a")])
    assert heads.to_pylist() == [
        {"rank": 1, "token": "t6", "probability": 0.5, "logprob": math.log(0.5)},
        {"rank": 2, "token": "t9", "probability": 0.25, "logprob": math.log(0.25)},
    ]
    second = where.replace("position = 1", "position = 2")
    tails = filled.sql(f"SELECT token, probability FROM tails {second}", [document_id("a")]).to_pylist()
    assert tails == [{"token": "t3", "probability": 0.125}] * 2


def test_the_macros_agree_with_the_views(filled):
    row = filled.row(
        "SELECT head_probability(head_codes[1][1], levels) AS head, "
        "tail_probability(head_codes[2], target_ids[2], levels) AS tail, "
        "nats(entropy_codes[1]) AS entropy FROM sequences"
    )
    assert row == {"head": 0.5, "tail": 0.125, "entropy": 1.0}


def test_the_views_work_under_any_alias_and_without_python(filled, location):
    """What a person types into DuckDB's own command line."""
    filled.close()
    with Lake.open(location) as other:
        other.connection.execute("USE memory")
        assert other.row("SELECT count(*) AS n FROM lake.positions")["n"] == 8
        assert other.row("SELECT lake.nats(32) AS n")["n"] == 1.0


def test_held_out_documents_are_the_same_in_sql_and_in_python(location, make_rows, recipe):
    from logitlake.storage.identity import held_out

    names = [f"document {number}" for number in range(40)]
    with Lake.create(location, held_out_salt="it's", held_out_share=0.3) as lake:
        commit_unit(lake, make_rows(*names), recipe=recipe, run_id="run", seconds=1.0)
        found = {
            row["doc_id"]: row["held_out"] for row in lake.sql("SELECT doc_id, held_out FROM documents").to_pylist()
        }
    assert found == {document_id(name): held_out(document_id(name), salt="it's", share=0.3) for name in names}
    assert 0 < sum(found.values()) < 40


def test_recipes_say_what_they_cost(filled):
    row = filled.row("SELECT teacher, sparsifier, n_documents, n_tokens, bytes_per_token > 0 AS sized FROM recipes")
    assert row == {"teacher": "tiny", "sparsifier": "varopt", "n_documents": 2, "n_tokens": 12, "sized": True}


def test_a_look_up_by_document_opens_one_shard_whatever_their_number(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    for number in range(8):
        commit_unit(lake, make_rows(f"a{number}", f"b{number}", f"c{number}"), recipe=recipe, run_id="run", seconds=1.0)
    wanted = document_id("b5")
    for view in ("sequences", "statistics", "positions", "targets", "heads"):
        query = f"SELECT * FROM {view} WHERE doc_id = '{wanted}'"
        assert set(lake.sql(query)["doc_id"].to_pylist()) == {wanted}
        plan = lake.connection.execute(f"EXPLAIN (ANALYZE, FORMAT json) {query}").fetchall()[0][1]
        assert _files_read(json.loads(plan), "sequences") == 1


def _files_read(node: dict, table: str) -> int:
    extra = node.get("extra_info") or {}
    own = int(extra["Total Files Read"]) if extra.get("Table") == table and "Total Files Read" in extra else 0
    return own + sum(_files_read(child, table) for child in node.get("children", []))


@pytest.mark.parametrize(
    ("added", "facts"),
    [
        ({"sparsifier": {"name": "varopt"}}, (True, False, "probabilities")),
        ({"sparsifier": {"name": "random"}}, (True, False, "counts")),
        ({"sparsifier": {"name": "top_p"}}, (False, True, "probabilities")),
        ({"sparsifier": {"name": "a plug-in's"}}, (None, None, None)),
        (
            {
                "sparsifier": {"name": "a plug-in's"},
                "facts": {"unbiased": True, "cuts_mass": False, "heads": "counts", "noise": None},
            },
            (True, False, "counts"),
        ),
    ],
)
def test_a_recipe_states_its_facts_and_old_recipes_have_those_of_their_sparsifier(lake, recipe, added, facts):
    register_recipe(lake, recipe | added)
    row = lake.row("SELECT unbiased, cuts_mass, heads FROM recipes")
    assert tuple(row.values()) == facts


def test_targets_whose_heads_are_counts_or_not_known_are_compared_with_no_others(lake, make_rows, recipe):
    def recipe_with(heads):
        return recipe | {"sparsifier": {"name": heads}, "facts": {"heads": heads} if heads != "unknown" else None}

    for heads in ("counts", "unknown", "probabilities"):
        commit_unit(lake, make_rows("a", recipe=recipe_with(heads)), recipe=recipe_with(heads), run_id="r", seconds=1.0)
        register_recipe(lake, recipe_with(heads))
    assert lake.row("SELECT count(*) AS n FROM store.comparable_documents") == {"n": 0}
    register_recipe(lake, recipe)
    commit_unit(lake, make_rows("a"), recipe=recipe, run_id="r", seconds=1.0)
    assert lake.row("SELECT count(*) AS n FROM store.comparable_documents") == {"n": 1}
