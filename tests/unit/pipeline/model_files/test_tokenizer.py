"""The tokenizer in use is that of transformers on the same files, and its hash covers what decides an id."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers
from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from logitlake.pipeline.model_files import tokenizer as module
from logitlake.pipeline.model_files.tokenizer import load_tokenizer
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import SettingsError

TEXTS = ["the cat", " the  cat", "", "the cat<|begin|>sat", "a<new> b", "x <|end|> y", "12 é e\u0301\n\n the"]
BEGINS_WITH_BOS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"]}},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def directory(tiny_teacher: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_teacher, tmp_path / "teacher"))


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({name: value for name, value in {**content, **changes}.items() if value is not None}))


def llama_class(directory: Path) -> None:
    """Its class has rules of its own: a space before the text, whatever tokenizer.json says."""
    pieces = {"<unk>": 0, "<s>": 1, "</s>": 2, "\u2581": 3, "a": 4, "\u2581a": 5, "b": 6}
    backend = Tokenizer(models.BPE(pieces, [("\u2581", "a")], unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    (directory / "tokenizer.json").write_text(backend.to_str())
    edit(directory / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>")


def more_files(directory: Path) -> None:
    """vocab.json and merges.txt without a tokenizer.json, as older checkpoints of GPT-2 have them."""
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (directory / "tokenizer.json").unlink()
    edit(directory / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", unk_token="<|end|>")
    edit(directory / "config.json", model_type="gpt2")


KINDS: dict[str, Callable[[Path], None]] = {
    "as saved": lambda directory: None,
    "a class with rules of its own": llama_class,
    "vocab.json and merges.txt": more_files,
    "a token in tokenizer_config.json": lambda directory: edit(
        directory / "tokenizer_config.json",
        added_tokens_decoder={"211": {"content": "<new>", "special": True, "normalized": False}},
    ),
    "a special token that tokenizer.json lacks": lambda directory: edit(
        directory / "tokenizer_config.json", extra_special_tokens=["<new>"]
    ),
    "special_tokens_map.json": lambda directory: edit(
        directory / "special_tokens_map.json", bos_token="<|end|>", eos_token="<|begin|>"
    ),
    "add_bos_token": lambda directory: edit(directory / "tokenizer_config.json", add_bos_token=True),
    "a post-processor of its class": lambda directory: edit(
        directory / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", add_prefix_space=True
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_named_tokens_are_those_of_transformers(directory: Path, kind: str) -> None:
    KINDS[kind](directory)
    ours, theirs = load_tokenizer(directory), AutoTokenizer.from_pretrained(directory)
    assert ours.encode_texts(TEXTS) == [theirs(text, add_special_tokens=False).input_ids for text in TEXTS]
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.adds_bos == (theirs("the").input_ids[0] == theirs.bos_token_id)


def test_a_tokenizer_that_transformers_reads_as_it_is_written_keeps_its_hash(directory: Path) -> None:
    """Recipes of older lakes name it."""
    assert load_tokenizer(directory).fingerprint == TextTokenizer.load(directory).fingerprint


@pytest.mark.parametrize(
    ("file", "changes", "same"),
    [
        ("tokenizer_config.json", {"model_max_length": 7, "clean_up_tokenization_spaces": True}, True),
        ("tokenizer_config.json", {"pad_token": "<|end|>", "padding_side": "left"}, True),
        ("config.json", {"pad_token_id": 3}, True),
        ("tokenizer_config.json", {"extra_special_tokens": ["<new>"]}, False),
        # transformers reads the rule for BOS from tokenizer.json, if there is one.
        ("tokenizer_config.json", {"add_bos_token": True}, True),
        ("tokenizer.json", {"post_processor": BEGINS_WITH_BOS}, False),
        ("tokenizer_config.json", {"eos_token": "<|begin|>"}, False),
    ],
)
def test_the_hash_changes_with_what_decides_ids(
    directory: Path, file: str, changes: dict[str, Any], same: bool
) -> None:
    before = load_tokenizer(directory).fingerprint
    edit(directory / file, **changes)
    assert (load_tokenizer(directory).fingerprint == before) == same


def test_saved_truncation_and_padding_are_no_difference(directory: Path) -> None:
    before = load_tokenizer(directory).fingerprint
    backend = Tokenizer.from_str((directory / "tokenizer.json").read_text())
    backend.enable_truncation(2)
    backend.enable_padding(length=9, pad_id=1, pad_token="<|end|>")
    (directory / "tokenizer.json").write_text(backend.to_str())
    assert load_tokenizer(directory).fingerprint == before


def test_the_answer_is_asked_for_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama_class(directory)
    first = load_tokenizer(directory)
    monkeypatch.setattr(module, "read_with_transformers", lambda *_: pytest.fail("asked again"))
    again = load_tokenizer(directory)
    assert again.fingerprint == first.fingerprint
    assert again.encode_texts(["a b"]) == first.encode_texts(["a b"])


def test_files_without_a_tokenizer_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"tokenizer\.json: can't be read"):
        load_tokenizer(tmp_path)


def test_code_that_is_not_trusted_is_refused(directory: Path) -> None:
    edit(directory / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]})
    edit(directory / "tokenizer_config.json", tokenizer_class="OwnTokenizer")
    edit(directory / "config.json", model_type="own")
    with pytest.raises(SettingsError, match="transformers can't read it"):
        load_tokenizer(directory)


def test_tokenizer_json_counts_beside_a_tekken_file_with_and_without_mistral_common(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    edit(directory / "config.json", model_type="mistral")
    expected = load_tokenizer(directory).fingerprint
    (directory / "tekken.json").write_text("{}")
    assert load_tokenizer(directory).fingerprint == expected
    # With the package, transformers would take the tekken file.
    monkeypatch.setitem(TOKENIZER_MAPPING_NAMES, "mistral", "MistralCommonBackend")
    monkeypatch.setattr(
        "transformers.integrations.mistral.tokenizer.resolve_mistral_format",
        lambda *_, mistral_format=None, **__: (mistral_format is not False, str(directory / "tekken.json")),
    )
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "another cache"))
    with pytest.raises((ImportError, NameError), match=r"mistral|ValidationMode"):
        AutoTokenizer.from_pretrained(directory)
    assert load_tokenizer(directory).fingerprint == expected
