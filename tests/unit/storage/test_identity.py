"""Ids are the same for ever, on any machine: a few are written down here."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitlake.storage.identity import canonical_json, digest, document_id, held_out, held_out_bound, recipe_id


def test_ids_written_down_once_never_change():
    assert document_id("hello") == "306f89347195cc05509ddca47462e259"
    assert document_id({"a": 1}) == "ba03a8468995a733997e7785bb2ddf95"
    assert digest(b"a", b"b") == "cf6ab613e3942391f88ed698557e1680"


def test_ids_do_not_depend_on_the_process():
    """Python's own hash is salted per process; ours must not be."""
    code = "from logitlake.storage.identity import document_id; print(document_id('hello'))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert runs == {document_id("hello")}


def test_the_order_of_keys_does_not_matter_and_types_do():
    assert document_id({"a": 1, "b": 2}) == document_id({"b": 2, "a": 1})
    assert document_id('{"a":1}') != document_id({"a": 1})
    assert recipe_id({"t": 1}) != recipe_id({"t": 2})
    assert recipe_id({"t": 1}) == recipe_id({"t": 1, "facts": {"unbiased": True}})


def test_not_a_number_has_no_canonical_form():
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("nan"))


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_two_sequences_of_parts_never_run_together(left, right):
    assert (digest(*left) == digest(*right)) == (left == right)


def test_lone_surrogates_have_an_id_too():
    assert document_id("\ud800") != document_id("\ud801")


def test_the_held_out_share_is_about_what_was_asked_and_follows_the_salt():
    ids = [document_id(str(number)) for number in range(4000)]
    chosen = {doc_id for doc_id in ids if held_out(doc_id, salt="x", share=0.1)}
    assert 300 < len(chosen) < 500
    assert chosen != {doc_id for doc_id in ids if held_out(doc_id, salt="y", share=0.1)}
    assert not any(held_out(doc_id, salt="x", share=0.0) for doc_id in ids)
    assert held_out_bound(0.5) == 2**31
