"""Every real tokenizer of the zoo: the expected ids, or refused. See docs/teachers.md."""

import json
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from logitlake.pipeline.model_files.tokenizer import load_tokenizer
from logitlake.pipeline.tokens.gguf.metadata import read_metadata
from logitlake.pipeline.tokens.gguf.tokenizer import GgufTokenizer, read_gguf_tokenizer
from logitlake.pipeline.tokens.same_ids import first_difference
from logitlake.storage.errors import SettingsError
from tests.template_zoo import expected_ids, tokenizer_zoo

DOCS = Path(__file__).resolve().parents[4] / "docs" / "teachers.md"
SAME = [
    *("command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe", "llama-spm", "mpt"),
    *("phi-3", "qwen2", "qwen35", "refact", "starcoder"),
]
REFUSED = {
    "aquila": r"tokenizer\.ggml\.pre, found no such entry",
    "gpt-neox": r"tokenizer\.ggml\.pre, found no such entry",
    "baichuan": "found baichuan: its rules .* were not compared",
    "bert-bge": r"tokenizer\.ggml\.model, found bert",
    "nomic-bert-moe": r"tokenizer\.ggml\.model, found t5",
}
# The rule that starts a text with BOS, by the models' own tokenizers or by the file.
ADDS_BOS = {"command-r", "deepseek-coder", "deepseek-llm", "gemma-4", "llama-bpe", "llama-spm", "phi-3"}


def test_the_table_in_the_docs_has_these_results() -> None:
    section = DOCS.read_text(encoding="utf-8").partition("## Tokenizers that were compared")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (same|refused)", section, re.MULTILINE))
    assert rows == dict.fromkeys(SAME, "same") | dict.fromkeys(REFUSED, "refused")


@pytest.mark.slow
def test_the_zoo_is_whole() -> None:
    assert sorted(tokenizer_zoo()) == sorted([*SAME, *REFUSED])


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_a_tokenizer_that_can_not_be_known_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{REFUSED[name]}.*teacher.gguf_tokenizer"):
        read_gguf_tokenizer(tokenizer_zoo()[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_ids_are_those_of_the_original_tokenizer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tokenizer_zoo()[name]
    described = read_gguf_tokenizer(path)
    expected = expected_ids(path)
    assert len(expected) >= 46
    assert {text: described.backend.encode(text, add_special_tokens=False).ids for text, _ in expected} == dict(
        expected
    )
    assert problems_of_added_tokens(path, described) == []
    directory = save(path, described, tmp_path)
    theirs = AutoTokenizer.from_pretrained(directory)
    difference = first_difference(described.backend, theirs.backend_tokenizer)
    if name == "qwen35":
        # transformers adds NFC for this kind of model; such a teacher is refused when it is converted.
        assert difference is not None and "é" in difference.text
        return
    assert difference is None
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    ours = load_tokenizer(directory)
    assert ours.adds_bos == (name in ADDS_BOS)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    for text, ids in expected:
        assert theirs(text).input_ids == ([ours.bos_id] if ours.adds_bos else []) + ids
    assert ours.encode_texts([text for text, _ in expected]) == [ids for _, ids in expected]


def problems_of_added_tokens(path: Path, described: GgufTokenizer) -> list[str]:
    """Control tokens and tokens of the user stay whole inside a text; rows without a token have none."""
    metadata = read_metadata(path)
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    problems = []
    for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if re.fullmatch(r"\[PAD\d+\]", token):
            if described.backend.token_to_id(token) is not None:
                problems.append(f"{token!r} is no token of the model")
        elif kind in (3, 4):
            ids = described.backend.encode(f"x{token}y", add_special_tokens=False).ids
            if number not in ids:
                problems.append(f"{token!r} is {number}, found {ids}")
    special = {token.content for token in described.backend.get_added_tokens_decoder().values() if token.special}
    missing = {token for token, kind in zip(tokens, kinds, strict=True) if kind == 3} - special
    return [*problems, *(f"{token!r} is not special" for token in missing)]


def save(path: Path, described: GgufTokenizer, directory: Path) -> Path:
    """As a converted teacher has it beside the weights."""
    PreTrainedTokenizerFast(tokenizer_object=described.backend, **described.settings).save_pretrained(directory)
    names = {"command-r": "cohere", "refact": "gpt_bigcode", "gemma4": "gemma4_text"}
    architecture = read_metadata(path)["general.architecture"]
    (directory / "config.json").write_text(json.dumps({"model_type": names.get(architecture, architecture)}))
    return directory
