"""What a GGUF file says of its tokenizer is honoured, and what it does not say is not guessed."""

import json
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from logitlake.pipeline.tokens.gguf.entries import UnknownTokenizerError
from logitlake.pipeline.tokens.gguf.splits import SPLITS
from logitlake.pipeline.tokens.gguf.tokenizer import build_gguf_tokenizer
from logitlake.pipeline.tokens.same_ids import TEXTS

NAMED = {f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "unknown", "padding")}
FLAGS = {f"tokenizer.ggml.{name}" for name in ("add_bos_token", "add_eos_token", "add_space_prefix")}
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
TEXT = " I'll  PAY\t$12.50\r\n\n für 3千円?! <b>„Äh“</b> \n  "
PIECES = {
    "<unk>": 0,
    "<s>": 0,
    "</s>": 0,
    "\u2581": -1,
    "a": -2,
    "b": -3,
    "\u2581a": -0.5,
    "ab": -0.1,
    "\u2581\u2581": -4,
}


@pytest.fixture
def byte_level(trained_backend: str) -> dict[str, Any]:
    """The tests' tokenizer as llama.cpp's tools describe it, with a token of the user and a row without a token."""
    model = json.loads(trained_backend)["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    kinds = [CONTROL if token.startswith("<") and len(token) > 2 else NORMAL for token in tokens]
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*tokens, "<think>", f"[PAD{len(tokens) + 1}]"],
        "tokenizer.ggml.token_type": [*kinds, USER, USER],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


@pytest.fixture
def pieces() -> dict[str, Any]:
    """A SentencePiece vocabulary: every byte, and pieces with scores."""
    tokens = [*PIECES, *(f"<0x{byte:02X}>" for byte in range(256))]
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [*PIECES.values(), *(0.0 for _ in range(256))],
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL, *(NORMAL for _ in list(PIECES)[3:]), *[BYTE] * 256],
        "tokenizer.ggml.bos_token_id": 1,
    }


def tokens_of(metadata: dict[str, Any], text: str) -> list[str]:
    return list(build_gguf_tokenizer(metadata).backend.encode(text, add_special_tokens=False).tokens)


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("gpt-2", ["x", "1234567", "Ġ1234567"]),
        ("smollm", ["x", *"1234567", "Ġ", *"1234567"]),
        ("llama-bpe", ["x", "123", "456", "7", "Ġ", "123", "456", "7"]),
        ("qwen2", ["x", *"1234567", "Ġ", *"1234567"]),
        ("falcon", ["x", "123", "456", "7", "Ġ", "123", "456", "7"]),
        ("deepseek-v3", ["x", "123", "456", "7", "Ġ", "123", "456", "7"]),
    ],
)
def test_the_named_rule_cuts_the_text(byte_level: dict[str, Any], name: str, cut: list[str]) -> None:
    backend = build_gguf_tokenizer({**byte_level, "tokenizer.ggml.pre": name}).backend
    assert [text for text, _ in backend.pre_tokenizer.pre_tokenize_str("x1234567 1234567")] == cut


@pytest.mark.parametrize("name", sorted(SPLITS.keys() & GGUF_PRE_TOKENIZER_SPLITS.keys()))
def test_the_cuts_are_those_of_transformers_for_the_names_that_it_knows(name: str) -> None:
    steps = [pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), "isolated"), pre_tokenizers.ByteLevel(False)]
    steps[1].use_regex = False
    theirs, ours = (pre_tokenizers.Sequence(parts) for parts in (steps, SPLITS[name].steps()))
    for text in (*TEXTS, TEXT):
        assert ours.pre_tokenize_str(text) == theirs.pre_tokenize_str(text)


@pytest.mark.parametrize("name", SPLITS)
def test_no_rule_loses_a_character(byte_level: dict[str, Any], name: str) -> None:
    backend = build_gguf_tokenizer({**byte_level, "tokenizer.ggml.pre": name}).backend
    assert backend.decode(backend.encode(TEXT, add_special_tokens=False).ids, skip_special_tokens=False) == TEXT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.pre": None}, "found no such entry"),
        ({"tokenizer.ggml.pre": "a-new-one"}, "found 'a-new-one'"),
        ({"tokenizer.ggml.model": "rwkv"}, "found rwkv"),
        ({"tokenizer.ggml.merges": ["the zzz"]}, "do not fit together"),
    ],
)
def test_what_is_not_known_is_refused(byte_level: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownTokenizerError, match=message):
        build_gguf_tokenizer({**byte_level, **change})


WRONG = [None, "", "x", 0, -1, 4_294_967_295, 1.5, True, [], ["x"], [0], [None], [[]], {}, [""] * 400]


@pytest.mark.parametrize("kind", ["byte_level", "pieces", "gemma4"])
def test_whatever_an_entry_holds_a_tokenizer_is_made_or_refused_by_name(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """Each entry in turn is missing, of another type, too short, too long, or out of range."""
    metadata = request.getfixturevalue("pieces" if kind == "gemma4" else kind)
    if kind == "gemma4":
        merges = ["\u2581 a", "a b", "\u2581 \u2581"]
        metadata |= {"tokenizer.ggml.model": "gemma4", "tokenizer.ggml.merges": merges}
    every = {*metadata, *NAMED, *FLAGS, "tokenizer.chat_template", "tokenizer.ggml.scores", "tokenizer.ggml.merges"}
    refused = set()
    for name in sorted(every):
        changes = [{**metadata, name: value} for value in WRONG]
        for changed in (*changes, {key: value for key, value in metadata.items() if key != name}):
            try:
                made = build_gguf_tokenizer(changed)
            except UnknownTokenizerError:
                refused.add(name)
            else:
                PreTrainedTokenizerFast(tokenizer_object=made.backend, **made.settings)("ab a")
    assert refused >= {*NAMED, *FLAGS, "tokenizer.ggml.tokens", "tokenizer.chat_template", "tokenizer.ggml.model"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"padding_token_id": 4_294_967_295},
            r"an id below \d+, .* in .*padding_token_id, found 4294967295",
        ),
        ({"eos_token_id": -1}, "tokenizer.ggml.eos_token_id, found -1"),
        ({"tokens": None}, "expected the entry tokenizer.ggml.tokens"),
        ({"merges": None}, "expected the entry tokenizer.ggml.merges for a tokenizer of kind gpt2"),
        ({"token_type": [1]}, "one for each token in tokenizer.ggml.token_type, found 1 entries"),
    ],
)
def test_an_entry_that_is_wrong_is_named(byte_level: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownTokenizerError, match=message):
        build_gguf_tokenizer({**byte_level, **{f"tokenizer.ggml.{name}": value for name, value in change.items()}})


def test_pieces_of_an_architecture_that_was_not_compared_are_refused(pieces: dict[str, Any]) -> None:
    with pytest.raises(UnknownTokenizerError, match="found gemma2"):
        build_gguf_tokenizer({**pieces, "general.architecture": "gemma2"})


def test_tokens_of_the_user_and_control_tokens_stay_whole_and_rows_without_a_token_have_none(
    byte_level: dict[str, Any],
) -> None:
    backend = build_gguf_tokenizer(byte_level).backend
    ids = backend.encode("the<think>fox<|end|>", add_special_tokens=False).ids
    assert [ids[1], ids[-1]] == [backend.token_to_id("<think>"), 6]
    kinds = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
    assert (kinds["<think>"], kinds["<|end|>"]) == (False, True)
    assert backend.token_to_id(byte_level["tokenizer.ggml.tokens"][-1]) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab", ["\u2581", "ab"]),
        (" ab", ["\u2581\u2581", "ab"]),
        ("a b", ["\u2581a", "\u2581", "b"]),
        ("ab</s>ab", ["\u2581", "ab", "</s>", "\u2581", "ab"]),
        ("é", ["\u2581", "<0xC3>", "<0xA9>"]),
        ("", []),
    ],
)
def test_pieces_are_merged_by_score_behind_a_space(pieces: dict[str, Any], text: str, expected: list[str]) -> None:
    """A leading space is one space more, as in SentencePiece; the best score is merged first."""
    assert tokens_of(pieces, text) == expected


def test_the_file_says_whether_a_text_begins_with_a_space(pieces: dict[str, Any]) -> None:
    assert tokens_of({**pieces, "tokenizer.ggml.add_space_prefix": False}, "ab") == ["ab"]


def test_added_tokens_of_phi3_take_the_white_space_behind_them(pieces: dict[str, Any]) -> None:
    assert tokens_of(pieces, "</s>  a") == ["</s>", "\u2581\u2581", "\u2581a"]
    assert tokens_of({**pieces, "general.architecture": "phi3"}, "</s>  a") == ["</s>  ", "\u2581a"]


@pytest.mark.parametrize(
    ("change", "adds_bos"),
    [
        ({}, False),
        ({"tokenizer.ggml.pre": "llama-bpe"}, True),
        ({"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": False}, False),
        ({"tokenizer.ggml.add_bos_token": True}, True),
    ],
)
def test_bos_is_added_as_the_file_says_else_as_its_kind_does(
    byte_level: dict[str, Any], change: dict[str, Any], adds_bos: bool
) -> None:
    settings = build_gguf_tokenizer({**byte_level, **change}).settings
    assert (settings["add_bos_token"], settings["bos_token"]) == (adds_bos, "<s>")


def test_pieces_begin_with_bos(pieces: dict[str, Any]) -> None:
    assert build_gguf_tokenizer(pieces).settings["add_bos_token"]
