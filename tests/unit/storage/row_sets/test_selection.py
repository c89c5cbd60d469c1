"""A query chooses what is trained on: never a held-out document, and the same rows whenever they are read again."""

import pytest

from logitlake.storage.errors import LakeError, SettingsError
from logitlake.storage.identity import document_id, held_out
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.row_sets.export import export_rows
from logitlake.storage.row_sets.registered import read_again, register_row_set
from logitlake.storage.row_sets.row_set import fetch, resolve_row_set
from logitlake.storage.students.registry import register_student
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe

NAMES = [f"document {number}" for number in range(30)]
HELD = {document_id(name) for name in NAMES if held_out(document_id(name), salt="salt", share=0.3)}
FREE = {document_id(name) for name in NAMES} - HELD
LISTED = ", ".join(f"('{doc_id}')" for doc_id in sorted(HELD))


def resolved(lake, recipe, query, **options):
    return resolve_row_set(lake, recipe_id=id_of_recipe(recipe), query=query, **options)


def documents_of(lake, rows):
    found = fetch(lake, rows, rows.units["unit_id"].to_pylist(), ["doc_id", "window_index"])
    assert found.num_rows == rows.n_sequences
    return set(found["doc_id"].to_pylist())


@pytest.mark.parametrize(
    "query",
    [
        "SELECT DISTINCT doc_id FROM sequences",
        "SELECT doc_id FROM documents WHERE held_out OR NOT held_out",
        "SELECT DISTINCT doc_id FROM store.sequences",
        "SELECT doc_id FROM store.documents",
        "SELECT DISTINCT doc_id FROM store.visible_sequences",
        "SELECT DISTINCT doc_id FROM targets UNION SELECT doc_id FROM positions UNION SELECT doc_id FROM sources",
        f"SELECT doc_id FROM documents UNION SELECT * FROM (VALUES {LISTED}) AS t(doc_id)",
        "WITH sequences AS (SELECT * FROM documents) SELECT doc_id FROM sequences",
        "SELECT doc_id FROM documents) UNION ALL (SELECT doc_id FROM documents",
    ],
)
def test_a_hostile_query_never_brings_a_held_out_document_into_training(split_lake, recipe, query):
    try:
        rows = resolved(split_lake, recipe, query)
    except SettingsError:
        return
    assert documents_of(split_lake, rows) == FREE


@pytest.mark.parametrize("shown", ["held_out", f"doc_id IN (SELECT * FROM (VALUES {LISTED}))"])
def test_a_query_can_not_even_see_what_is_held_out(split_lake, recipe, shown):
    """Or it could choose by what is in it."""
    seen = f"SELECT doc_id FROM documents WHERE (SELECT count(*) FROM positions WHERE {shown}) > 0"
    with pytest.raises(LakeError, match="no rows to train on"):
        resolved(split_lake, recipe, seen)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT doc_id FROM lake.documents", "lake"),
        ("SELECT doc_id FROM lake.store.documents", "lake"),
        ("SELECT content AS doc_id FROM read_text('/etc/passwd')", "read_text"),
        ("SELECT doc_id FROM 'x.parquet'", "x.parquet"),
        ("DELETE FROM documents", "SELECT"),
        ("COPY (SELECT doc_id FROM documents) TO 'x'", "SELECT"),
        ("SELECT doc_id FROM documents; SELECT 1", "one|SELECT"),
        ("SELECT doc_id FROM documents WHERE random() < 0.5", "random"),
        ("SELECT doc_id FROM documents WHERE now() > '2020-01-01'", "now"),
        ("SELECT doc_id FROM documents USING SAMPLE 50%", "sample"),
        ("SELECT doc_id FROM documents TABLESAMPLE reservoir(3)", "sample"),
        ("SELECT doc_id, n_tokens FROM documents", "columns doc_id"),
        ("SELECT n_tokens AS doc_id FROM documents", "as text"),
        ("SELECT NULL::VARCHAR AS doc_id", "NULL"),
        ("SELECT doc_id, 'heavy' AS weight FROM documents", "number"),
        ("SELECT doc_id, -1 AS weight FROM documents", "finite"),
        ("SELECT doc_id, 'nan'::DOUBLE AS weight FROM documents", "finite"),
        ("SELECT doc_id, NULL::DOUBLE AS weight FROM documents", "not NULL"),
        ("SELECT doc_id, window_index AS weight FROM sequences", "two weights"),
        ("SELECT doc_id FROM nowhere", "nowhere"),
        ("SELEKT doc_id", "syntax"),
        ("", "SELECT|one|found"),
    ],
)
def test_a_query_that_is_not_one_is_refused_with_the_setting(split_lake, recipe, query, words):
    with pytest.raises(SettingsError, match=rf"(?s)training\.query.*({words})"):
        resolved(split_lake, recipe, query)


def test_the_rows_are_those_of_the_chosen_documents_with_their_weight(split_lake, recipe):
    chosen = sorted(FREE)[:5]
    listed = ", ".join(f"('{doc_id}', {number})" for number, doc_id in enumerate(chosen))
    rows = resolved(
        split_lake, recipe, f"SELECT * FROM (VALUES {listed}) AS t(doc_id, weight)", where="window_index = 1"
    )
    found = fetch(split_lake, rows, rows.units["unit_id"].to_pylist(), ["doc_id", "window_index"])
    weights = dict(zip(found["doc_id"].to_pylist(), found["weight"].to_pylist(), strict=True))
    assert weights == {doc_id: float(number) for number, doc_id in enumerate(chosen)}
    assert set(found["window_index"].to_pylist()) == {1}
    with pytest.raises(SettingsError, match="leave out one"):
        resolved(split_lake, recipe, "SELECT doc_id, 2 AS weight FROM documents", weight="n_tokens")


def test_other_weights_make_another_row_set_and_no_query_the_one_of_before(split_lake, recipe):
    light, heavy = (resolved(split_lake, recipe, f"SELECT doc_id, {n} AS weight FROM documents") for n in (1, 2))
    assert light.row_set_id != heavy.row_set_id and light.content_hash != heavy.content_hash
    plain = resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe))
    every = resolved(split_lake, recipe, "SELECT doc_id FROM documents")
    assert plain.content_hash == every.content_hash and plain.row_set_id != every.row_set_id


@pytest.mark.slow
def test_the_same_rows_are_read_again_whatever_the_query_would_answer_by_then(
    split_lake, make_rows, recipe, location, tmp_path
):
    query = "SELECT doc_id, 1 + count(*) OVER () AS weight FROM documents"
    rows = resolved(split_lake, recipe, query)
    register_row_set(split_lake, rows)
    commit_unit(split_lake, make_rows("new", "newer"), recipe=recipe, run_id="run", seconds=1.0)
    assert resolved(split_lake, recipe, query).row_set_id != rows.row_set_id
    again = read_again(split_lake, rows.row_set_id)
    assert (again.rows.row_set_id, again.rows.content_hash) == (rows.row_set_id, rows.content_hash)
    assert (again.n_missing, again.rows.query) == (0, query)
    export_rows(split_lake, again.rows, tmp_path / "data")
    forget(split_lake, [sorted(FREE)[0]], reason="asked")
    assert read_again(split_lake, rows.row_set_id).n_missing == 2
    split_lake.close()
    for file in location.state_directory.glob("catalog.sqlite*"):
        file.unlink()
    rebuild(location)
    with Lake.open(location) as lake:
        after = read_again(lake, rows.row_set_id)
        assert (after.n_missing, documents_of(lake, after.rows)) == (2, set(sorted(FREE)[1:]))


def test_who_trained_on_a_chosen_document_is_known_even_when_it_is_forgotten(split_lake, recipe):
    chosen, other = sorted(FREE)[:2]
    rows = resolved(split_lake, recipe, f"SELECT doc_id FROM documents WHERE doc_id = '{chosen}'")
    register_row_set(split_lake, rows)
    student = {"student_id": "s", "parent_id": "p", "run_id": "r", "directory": "/d"}
    register_student(split_lake, row_set_id=rows.row_set_id, settings={}, metrics={}, **student)
    assert split_lake.sql("SELECT doc_id, student_id FROM trained_on").to_pylist() == [
        {"doc_id": chosen, "student_id": "s"}
    ]
    assert forget(split_lake, [other], reason="asked").student_ids == ()
    assert forget(split_lake, [chosen], reason="asked").student_ids == ("s",)
    assert split_lake.row("SELECT student_id FROM trained_on WHERE doc_id = ?", [chosen]) == {"student_id": "s"}


def test_a_lake_of_an_older_logitlake_can_be_asked_before_anybody_writes_to_it(lake, location, make_rows, recipe):
    register_recipe(lake, recipe)
    commit_unit(lake, make_rows("a"), recipe=recipe, run_id="run", seconds=1.0)
    for table in ("student_losses", "row_set_documents", "row_set_queries"):
        lake.connection.execute(f"DROP TABLE store.{table}")
    lake.close()
    with Lake.open(location) as reader:
        rows = resolved(reader, recipe, "SELECT doc_id FROM documents")
        assert documents_of(reader, rows) == {document_id("a")}
