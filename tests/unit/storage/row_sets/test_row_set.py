"""A row set is the same rows whenever it is read, and never a held-out document."""

import hashlib

import pytest

from logitlake.storage.errors import IntegrityError, LakeError, SettingsError
from logitlake.storage.identity import digest, document_id, held_out
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import fetch, resolve_row_set
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.runs import note_run

NAMES = [f"document {number}" for number in range(30)]


def _documents(lake, row_set):
    rows = fetch(lake, row_set, row_set.units["unit_id"].to_pylist(), ["doc_id"])
    return set(rows["doc_id"].to_pylist())


def test_training_never_sees_a_held_out_document_whatever_the_filter_says(split_lake, recipe):
    held = {document_id(name) for name in NAMES if held_out(document_id(name), salt="salt", share=0.3)}
    train = resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe), where="held_out) OR (true")
    kept = resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe), held_out=True)
    assert _documents(split_lake, train) == {document_id(name) for name in NAMES} - held
    assert _documents(split_lake, kept) == held
    assert train.n_sequences + kept.n_sequences == 60


def test_a_row_set_is_the_same_after_new_commits_and_runs(split_lake, make_rows, recipe):
    before = resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe))
    note_run(split_lake, "r", "started", kind="capture", recipe_id=None)
    assert resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe)).row_set_id == before.row_set_id
    commit_unit(split_lake, make_rows("new", "newer", "newest"), recipe=recipe, run_id="run", seconds=1.0)
    after = resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe))
    again = resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe), up_to_commit=before.up_to_commit)
    assert after.row_set_id != before.row_set_id
    assert (again.row_set_id, again.content_hash) == (before.row_set_id, before.content_hash)


def test_what_was_forgotten_changes_the_content_hash(split_lake, recipe):
    before = resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe))
    doc_id = next(iter(_documents(split_lake, before)))
    with split_lake.transaction() as transaction:
        transaction.connection.execute("DELETE FROM store.sequences WHERE doc_id = ?", [doc_id])
    after = resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe), up_to_commit=before.up_to_commit)
    assert after.content_hash != before.content_hash and after.n_sequences == before.n_sequences - 2


@pytest.mark.parametrize("table", ["documents", "commits"])
def test_rows_that_lost_their_document_or_commit_are_no_smaller_row_set(split_lake, make_rows, recipe, table):
    commit_unit(split_lake, make_rows("new", "newer"), recipe=recipe, run_id="run", seconds=1.0)
    with split_lake.transaction() as transaction:
        transaction.connection.execute(
            f"DELETE FROM store.{table} WHERE unit_id = (SELECT unit_id FROM store.documents WHERE doc_id = ?)",
            [document_id("new")],
        )
    for held_out_rows in (False, True):
        with pytest.raises(IntegrityError, match=r"hold 64 sequences.* name 60 .*logitlake repair"):
            resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe), held_out=held_out_rows)


def test_rows_come_in_one_order_with_their_sampling_weight(split_lake, recipe):
    row_set = resolve_row_set(
        split_lake, recipe_id=id_of_recipe(recipe), weight="mean_entropy * 2", where="window_index = 1"
    )
    unit_ids = row_set.units["unit_id"].to_pylist()
    rows = fetch(split_lake, row_set, unit_ids, ["unit_id", "doc_id", "window_index", "mean_entropy"]).to_pylist()
    assert rows == sorted(rows, key=lambda row: (row["unit_id"], row["doc_id"], row["window_index"]))
    assert {row["window_index"] for row in rows} == {1}
    assert all(row["weight"] == pytest.approx(2 * row["mean_entropy"]) for row in rows)


@pytest.mark.parametrize(
    "where",
    [
        "no_such_column > 1",
        "n_tokens",
        "doc_id IN (SELECT doc_id FROM documents)",
        "random() < 0.5",
        "1) FROM (SELECT 1",
    ],
)
def test_a_filter_that_is_not_a_condition_over_sequences_is_refused(split_lake, recipe, where):
    with pytest.raises(SettingsError, match=r"training\.where"):
        resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe), where=where)


def test_a_weight_that_is_not_a_number_is_refused(split_lake, recipe):
    with pytest.raises(SettingsError, match="a number"):
        resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe), weight="n_tokens > 3")


def test_an_empty_row_set_is_an_error_that_says_where_to_look(split_lake, recipe):
    with pytest.raises(LakeError, match="show documents"):
        resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe), where="n_tokens > 1000")


def test_a_registered_row_set_is_shown_once(split_lake, recipe):
    row_set = resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe), where="window_index = 0")
    register_row_set(split_lake, row_set)
    register_row_set(split_lake, row_set)
    [row] = split_lake.sql("SELECT filter, n_sequences, content_hash FROM row_sets").to_pylist()
    assert row == {
        "filter": "window_index = 0",
        "n_sequences": row_set.n_sequences,
        "content_hash": row_set.content_hash,
    }


def test_the_content_hash_is_the_one_that_row_sets_always_had(split_lake, recipe):
    row_set = resolve_row_set(split_lake, recipe_id=id_of_recipe(recipe))
    keys = split_lake.sql(
        "SELECT concat_ws(':', recipe_id, doc_id, window_index, checksum, '') AS key FROM sequences WHERE NOT held_out"
    )["key"].to_pylist()
    halves = [0, 0]
    for key in keys:
        md5 = hashlib.md5(key.encode()).digest()
        halves = [halves[0] ^ int.from_bytes(md5[8:], "little"), halves[1] ^ int.from_bytes(md5[:8], "little")]
    assert row_set.content_hash == digest(b"rows", f"{len(keys)}:{halves[0]}:{halves[1]}".encode())
