"""Registered or invisible, once, and found again when the answer was lost."""

import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from logitlake.storage.errors import LakeBusyError, LakeError, LostRaceError
from logitlake.storage.identity import document_id, recipe_id
from logitlake.storage.lake import locks
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.locks import single_writer
from logitlake.storage.schema.sequences import CAPTURED, SEQUENCES, sequence_checksums
from logitlake.storage.students.registry import find_student, register_student
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.writing.commits import (
    REJECTS,
    SOURCES,
    RecipeRows,
    commit_unit,
    commit_units,
    stored_rows,
    unit_id_of,
)
from logitlake.storage.writing.known_documents import KnownDocuments
from logitlake.storage.writing.recipes import find_recipe, register_recipe, register_vocabulary
from logitlake.storage.writing.runs import note_run


def _commit(lake: Lake, rows: pa.Table, recipe: dict[str, Any], **more: Any) -> Any:
    return commit_unit(lake, rows, recipe=recipe, run_id="run", seconds=2.0, **more)


def test_a_commit_brings_rows_documents_and_its_number_together(lake, make_rows, recipe):
    receipt = _commit(lake, make_rows("a", "b"), recipe)
    assert (receipt.n_documents, receipt.n_sequences, receipt.n_tokens, receipt.n_targets) == (2, 4, 12, 8)
    assert lake.row("SELECT count(*) AS n FROM sequences")["n"] == 4
    assert {row["commit_number"] for row in lake.sql("SELECT commit_number FROM documents").to_pylist()} == {1}
    assert lake.commit_number == receipt.commit_number == 1


def test_captured_rows_get_their_units_id_and_their_checksums_at_the_commit(make_rows):
    captured = make_rows("b", "a").select(CAPTURED.names)
    stored = stored_rows(captured)
    assert stored.schema == SEQUENCES
    assert stored["doc_id"].to_pylist() == sorted(captured["doc_id"].to_pylist())
    assert stored["checksum"].to_pylist() == sequence_checksums(stored).to_pylist()
    recipe_id = captured["recipe_id"][0].as_py()
    assert set(stored["unit_id"].to_pylist()) == {unit_id_of(recipe_id, captured["doc_id"].to_pylist())}


def stored(lake):
    """Document, window and tokens of every row."""
    rows = lake.sql("SELECT doc_id, window_index, input_ids FROM sequences").to_pylist()
    return sorted((row["doc_id"], row["window_index"], row["input_ids"]) for row in rows)


def rows_of(*names):
    """What `make_rows` makes for these documents, as `stored` gives it."""
    return sorted((document_id(name), window, [5, 6, 7 + window]) for name in names for window in range(2))


def test_the_same_unit_committed_twice_is_stored_once(lake, make_rows, recipe):
    first = _commit(lake, make_rows("a", "b"), recipe)
    again = _commit(lake, make_rows("b", "a"), recipe)
    assert again.n_documents == 0 and first.n_documents == 2
    assert stored(lake) == rows_of("a", "b")


def test_a_unit_that_overlaps_another_keeps_only_what_is_missing(lake, make_rows, recipe):
    _commit(lake, make_rows("a", "b"), recipe)
    receipt = _commit(lake, make_rows("b", "c"), recipe)
    assert receipt.n_documents == 1
    assert stored(lake) == rows_of("a", "b", "c")


def test_a_commit_that_landed_but_was_reported_failed_is_not_committed_twice(lake, make_rows, recipe, monkeypatch):
    real = Lake._commit

    def lose_the_answer(self: Lake, began: float) -> None:
        real(self, began)
        monkeypatch.undo()
        raise LostRaceError("the answer was lost")

    monkeypatch.setattr(Lake, "_commit", lose_the_answer)
    _commit(lake, make_rows("a"), recipe)
    assert stored(lake) == rows_of("a")
    assert lake.sql("SELECT doc_id FROM store.documents")["doc_id"].to_pylist() == [document_id("a")]


def test_documents_of_another_recipe_do_not_count_as_known(lake, make_rows, recipe):
    other = {**recipe, "temperature": 2.0}
    _commit(lake, make_rows("a"), recipe)
    assert _commit(lake, make_rows("a", recipe=other), other).n_documents == 1
    assert stored(lake) == sorted(2 * rows_of("a"))


def test_a_failed_transaction_leaves_nothing_visible(lake, make_rows, recipe):
    with pytest.raises(RuntimeError, match="half way"), lake.transaction() as transaction:
        transaction.connection.execute("INSERT INTO store.recipes VALUES ('x', '{}', now(), NULL)")
        raise RuntimeError("half way")
    assert lake.commit_number == 0
    assert lake.row("SELECT count(*) AS n FROM store.recipes")["n"] == 0


def test_two_writers_at_once_commit_every_document_exactly_once(location, lake, make_rows, recipe):
    """Each thread has a connection of its own and offers overlapping units."""
    errors: list[BaseException] = []

    def work(names: list[tuple[str, ...]]) -> None:
        try:
            with Lake.open(location, read_only=False, lock_timeout=60) as mine:
                for unit in names:
                    _commit(mine, make_rows(*unit), recipe)
        except BaseException as error:
            errors.append(error)

    plans = [[("a", "b"), ("c", "d"), ("e",)], [("b", "c"), ("d", "e"), ("a", "f")]]
    threads = [threading.Thread(target=work, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with Lake.open(location) as reader:
        counts = reader.sql("SELECT doc_id, count(*) AS n FROM sequences GROUP BY doc_id").to_pylist()
    assert sorted(row["n"] for row in counts) == [2] * 6


def test_a_reader_sees_the_lake_while_a_writer_holds_a_transaction(location, lake, make_rows, recipe):
    _commit(lake, make_rows("a"), recipe)
    with lake.transaction() as transaction:
        transaction.connection.execute("INSERT INTO store.recipes VALUES ('x', '{}', now(), NULL)")
        with Lake.open(location) as reader:
            assert reader.row("SELECT count(*) AS n FROM sequences")["n"] == 2
            assert reader.row("SELECT count(*) AS n FROM store.recipes")["n"] == 0


def test_an_open_reader_does_not_make_a_commit_fail(location, lake, make_rows, recipe):
    with Lake.open(location) as reader:
        reader.connection.execute("BEGIN")
        reader.sql("SELECT count(*) FROM sequences")
        assert _commit(lake, make_rows("a"), recipe).n_documents == 1
        reader.connection.execute("ROLLBACK")


def test_a_held_commit_lock_is_reported_with_the_setting_that_helps(location, lake, recipe):
    helpful = pytest.raises(LakeBusyError, match="lock_timeout_seconds")
    with Lake.open(location, read_only=False, lock_timeout=0.05) as other, lake.transaction(), helpful:
        note_run(other, "r", "started", kind="capture", recipe_id=None)


def test_a_second_capture_at_once_is_refused_by_name(location, lake):
    running = pytest.raises(LakeBusyError, match="another capture is running")
    with single_writer(location, "capture"), running, single_writer(location, "capture"):
        pass
    with single_writer(location, "capture"):
        pass


def test_a_patient_capture_waits_for_the_one_that_runs(location, lake):
    entered, order = threading.Event(), []

    def first():
        with single_writer(location, "capture"):
            entered.set()
            time.sleep(0.3)
            order.append("first")

    running = threading.Thread(target=first)
    running.start()
    entered.wait()
    with single_writer(location, "capture", patience=60):
        order.append("second")
    running.join()
    assert order == ["first", "second"]


def test_a_capture_that_waits_says_for_whom_and_how_to_stop_it(location, lake, monkeypatch, caplog):
    monkeypatch.setattr(locks, "_REPORT_SECONDS", 0.05)
    holder = f"process {os.getpid()} on {socket.gethostname()} (`kill {os.getpid()}` stops it)"
    given_up = pytest.raises(LakeBusyError, match=re.escape(holder))
    with single_writer(location, "capture"), given_up, single_writer(location, "capture", patience=0.3):
        pass
    said = [record.getMessage() for record in caplog.records]
    assert len(said) > 1
    assert all("waiting for another capture of this lake" in line and holder in line for line in said)


def test_a_full_disk_is_a_clear_error_and_the_lake_still_opens(location, lake, make_rows, recipe, monkeypatch):
    _commit(lake, make_rows("a"), recipe)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("logitlake.storage.connection.object_store.os.fsync", full)
    with pytest.raises(LakeError, match="free some space"):
        _commit(lake, make_rows("b"), recipe)
    monkeypatch.undo()
    assert not list(Path(location.data).rglob("*.tmp"))
    assert _commit(lake, make_rows("b"), recipe).n_documents == 1


def test_sources_and_rejects_are_noted_once_however_often_they_are_met(lake, make_rows, recipe):
    sources = pa.Table.from_pylist(
        [{"doc_id": document_id("a"), "corpus": c, "source": "a.txt", "line": None} for c in ("books", "web")], SOURCES
    )
    rejects = pa.Table.from_pylist(
        [{"corpus": "books", "source": "b.jsonl", "line": 3, "reason": "bad_json", "detail": "x"}], REJECTS
    )
    for names in (("a",), ("b",)):
        _commit(lake, make_rows(*names), recipe, sources=sources, rejects=rejects)
    assert lake.row("SELECT count(*) AS n FROM store.document_sources")["n"] == 2
    assert lake.row("SELECT count(*) AS n FROM store.rejects")["n"] == 1
    [document] = lake.sql("SELECT sources FROM documents WHERE doc_id = ?", [document_id("a")]).to_pylist()
    assert document["sources"] == ["books/a.txt", "web/a.txt"]


def test_known_documents_are_those_of_the_recipe_and_the_forgotten(lake, make_rows, recipe):
    receipt = _commit(lake, make_rows("a", "b"), recipe)
    forget(lake, [document_id("z")], reason="asked")
    recipe_id = lake.row("SELECT recipe_id FROM store.commits WHERE unit_id = ?", [receipt.unit_id])["recipe_id"]
    known = KnownDocuments(lake, recipe_id)
    names = ["a", "b", "c", "z"]
    assert known([document_id(name) for name in names]) == {document_id(name) for name in ("a", "b", "z")}
    assert len(known) == 3
    assert KnownDocuments(lake, "0" * 32)([document_id("a")]) == set()


def test_a_forgotten_document_is_never_committed_again(lake, make_rows, recipe):
    forget(lake, [document_id("a")], reason="asked")
    assert _commit(lake, make_rows("a", "b"), recipe).n_documents == 1
    assert stored(lake) == rows_of("b")


def test_recipes_are_found_by_prefix_and_doubts_are_named(lake, recipe):
    recipe_id = register_recipe(lake, recipe)
    assert register_recipe(lake, recipe) == recipe_id
    assert find_recipe(lake, recipe_id[:6]) == (recipe_id, recipe)
    assert (Path(lake.location.data) / "recipes" / f"{recipe_id}.json").exists()
    register_recipe(lake, {**recipe, "temperature": 2.0})
    with pytest.raises(LakeError, match="give more of the id"):
        find_recipe(lake)


def test_runs_and_students_show_their_last_state_and_lineage(lake, make_rows, recipe):
    register_vocabulary(lake, "words", ["<s>", "the"], {0})
    register_vocabulary(lake, "words", ["<s>", "the"], {0})
    note_run(lake, "run", "started", kind="capture", recipe_id=None)
    _commit(lake, make_rows("a"), recipe)
    note_run(lake, "run", "finished", kind="capture", recipe_id=None)
    assert lake.row("SELECT status, n_tokens, tokens_per_second FROM runs") == {
        "status": "finished",
        "n_tokens": 6,
        "tokens_per_second": 3.0,
    }
    assert lake.row("SELECT count(*) AS n FROM vocabulary")["n"] == 2
    shared = {"run_id": "r", "directory": "/d", "settings": {"epochs": 1}, "metrics": {}}
    register_student(lake, student_id="child", parent_id="parent", row_set_id="s2", **shared)
    register_student(lake, student_id="parent", parent_id="model", row_set_id="s1", **shared)
    chain = lake.sql("SELECT ancestor_id, depth FROM lineage WHERE student_id = 'child' ORDER BY depth").to_pylist()
    assert [row["ancestor_id"] for row in chain] == ["child", "parent"]
    assert find_student(lake, "chi")["settings"] == {"epochs": 1}
    assert find_student(lake, "nobody") == {}


def test_rows_of_several_recipes_are_one_commit_and_each_recipe_gets_what_it_lacks(lake, make_rows, recipe):
    other = {**recipe, "seed": 99}
    of_other = make_rows("a", "b").set_column(
        make_rows("a").schema.get_field_index("recipe_id"), "recipe_id", pa.array([recipe_id(other)] * 4)
    )
    _commit(lake, make_rows("a"), recipe)
    register_recipe(lake, other)
    before = lake.commit_number
    parts = [RecipeRows(rows=make_rows("a", "b"), recipe=recipe), RecipeRows(rows=of_other, recipe=other)]
    receipts = commit_units(lake, parts, run_id="run", seconds=3.0)
    assert [receipt.n_documents for receipt in receipts] == [1, 2]
    assert {receipt.commit_number for receipt in receipts} == {lake.commit_number} == {before + 1}
    noted = lake.sql("SELECT recipe_id, seconds FROM store.commits WHERE commit_number = ?", [before + 1]).to_pylist()
    assert sum(row["seconds"] for row in noted) == 3.0, "the teacher ran once"
    held = lake.sql("SELECT recipe_id, count(*) AS n FROM documents GROUP BY 1").to_pylist()
    assert {row["recipe_id"]: row["n"] for row in held} == {recipe_id(recipe): 2, recipe_id(other): 2}
    again = commit_units(lake, parts, run_id="run", seconds=3.0)
    assert [receipt.n_documents for receipt in again] == [0, 0]
