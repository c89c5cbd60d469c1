"""Ids and labels of a document against transformers: no false alarm, and each kind of difference is found."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from logitlake.pipeline.checks.ids import compared_texts, ids_outcome
from logitlake.pipeline.checks.labels import labelled_texts, labels_outcome
from logitlake.pipeline.checks.outcome import Outcome
from logitlake.pipeline.corpus.document import Chat, Content, Document, Pair, Reject
from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.pipeline.tokens.sequences import TokenizedDocument, tokenize_documents
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from tests.template_zoo import template_zoo
from tests.unit.pipeline.conftest import TEMPLATE
from tests.unit.pipeline.tokens.chats import CASES, without_nulls
from tests.unit.pipeline.tokens.test_template_zoo import tokenizers_of

SETTINGS = TokenizationSettings(window=16, overlap=4)
DATED = "{{ strftime_now('%d %B %Y') }}" + TEMPLATE
DATED_IF = "{% if strftime_now is defined %}{{ strftime_now('%d %B %Y') }}{% else %}1 May{% endif %}" + TEMPLATE
LAST_THOUGHT = (
    "{% for message in messages %}<|{{ message.role }}|>\n"
    "{% if loop.last and message.reasoning_content %}<think>{{ message.reasoning_content }}</think>\n{% endif %}"
    "{{ message.content or '' }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
Directory = Callable[..., Path]


def tokenized(content: Content, tokenizer: TextTokenizer, settings: TokenizationSettings = SETTINGS) -> Any:
    [outcome] = tokenize_documents([Document("d", content, "c", "a.jsonl", 3)], tokenizer, settings)
    return outcome


def outcomes(
    document: TokenizedDocument, tokenizer: TextTokenizer, reference: Any, settings: TokenizationSettings = SETTINGS
) -> tuple[Outcome, Outcome]:
    texts = compared_texts(document, tokenizer, settings, reference)
    return ids_outcome(texts), labels_outcome([document], texts, settings, reference)


def reference_of(directory: Path) -> Any:
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config})
    )
    return AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("template", [TEMPLATE, DATED, DATED_IF, LAST_THOUGHT])
@pytest.mark.parametrize("case", CASES)
def test_chats_of_every_shape_pass(make_tokenizer_directory: Directory, template: str, case: str) -> None:
    directory = make_tokenizer_directory(template=template)
    tokenizer, reference = TextTokenizer.load(directory), reference_of(directory)
    messages, tools = CASES[case]
    document = tokenized(Chat(without_nulls(messages), tools), tokenizer)
    assert not isinstance(document, Reject), document
    assert [outcome.result for outcome in outcomes(document, tokenizer, reference)] == ["pass", "pass"]


@pytest.mark.parametrize("bos", ["auto", "always", "never"])
@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        "pack my box with five dozen jugs, the quick brown fox jumps over the lazy dog",
        "<s>pack my box</s>",
        Pair("def main(): ", "return 1"),
        Pair("pack m", "y box"),
        Pair("", "five"),
        Chat(({"role": "user", "content": "pack"}, {"role": "assistant", "content": "my box"})),
    ],
)
def test_texts_and_pairs_pass_with_every_setting_of_bos_and_eos(
    make_tokenizer_directory: Directory, trained_backend: str, content: Content, bos: Any, eos: bool, adds_bos: bool
) -> None:
    backend = Tokenizer.from_str(trained_backend)
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    directory = make_tokenizer_directory(backend=backend.to_str())
    tokenizer, reference = TextTokenizer.load(directory), reference_of(directory)
    settings = SETTINGS.model_copy(update={"bos": bos, "eos": eos})
    document = tokenized(content, tokenizer, settings)
    found = outcomes(document, tokenizer, reference, settings)
    assert [(outcome.result, outcome.detail) for outcome in found] == [("pass", "")] * 2


def test_a_tokenizer_that_lacks_a_merge_is_found_with_the_document_and_both_tokens(
    make_tokenizer_directory: Directory, trained_backend: str
) -> None:
    directory = make_tokenizer_directory()
    broken = json.loads(trained_backend)
    broken["model"]["merges"] = broken["model"]["merges"][:20]
    other = make_tokenizer_directory("broken", backend=json.dumps(broken))
    tokenizer, reference = TextTokenizer.load(other), reference_of(directory)
    document = tokenized("pack my box with five dozen jugs", tokenizer)
    ids, labels = outcomes(document, tokenizer, reference)
    assert (ids.result, ids.difference) == ("differs", 1)
    assert ids.detail.startswith("c/a.jsonl:3: token ") and "transformers gives" in ids.detail
    assert labels.result == "not compared"


def test_another_template_is_found(make_tokenizer_directory: Directory) -> None:
    directory = make_tokenizer_directory()
    tokenizer, reference = TextTokenizer.load(directory), reference_of(directory)
    document = tokenized(Chat(without_nulls(CASES["two turns"].messages)), tokenizer)
    other = TextTokenizer.load(make_tokenizer_directory("other", template=TEMPLATE.replace("<|end|>", "</s>")))
    assert outcomes(document, tokenizer, reference)[0].result == "pass"
    assert outcomes(tokenized(document.document.content, other), tokenizer, reference)[0].result == "differs"


def test_a_window_with_other_ids_than_its_text_is_found(make_tokenizer_directory: Directory) -> None:
    directory = make_tokenizer_directory()
    tokenizer, reference = TextTokenizer.load(directory), reference_of(directory)
    document = tokenized("the quick brown fox jumps over the lazy dog and packs a box of jugs", tokenizer)
    shifted = replace(document.sequences[1], input_ids=np.roll(document.sequences[1].input_ids, 1))
    moved = replace(document, sequences=(document.sequences[0], shifted, *document.sequences[2:]))
    assert "window 1 holds other ids" in outcomes(moved, tokenizer, reference)[0].detail


@pytest.mark.parametrize("shift", [-3, -1, 1, 3])
@pytest.mark.parametrize(
    "content", [Chat(without_nulls(CASES["system"].messages)), Pair("the quick brown ", "fox jumps")]
)
def test_labels_that_are_shifted_are_found(
    make_tokenizer_directory: Directory, monkeypatch: pytest.MonkeyPatch, content: Content, shift: int
) -> None:
    directory = make_tokenizer_directory()
    tokenizer, reference = TextTokenizer.load(directory), reference_of(directory)
    settings = TokenizationSettings(window=512)
    document = tokenized(content, tokenizer, settings)
    texts = compared_texts(document, tokenizer, settings, reference)
    shifted = [replace(t, ids=replace(t.ids, has_target=np.roll(t.ids.has_target, shift))) for t in texts]
    moved = replace(document, sequences=tuple(text.ids for text in shifted))
    assert labels_outcome([document], texts, settings, reference).result == "pass"
    assert labels_outcome([moved], shifted, settings, reference).result == "differs"


def test_a_turn_without_labels_and_a_window_that_lacks_one_are_found(make_tokenizer_directory: Directory) -> None:
    directory = make_tokenizer_directory()
    tokenizer, reference = TextTokenizer.load(directory), reference_of(directory)
    settings = TokenizationSettings(window=512)
    document = tokenized(Chat(without_nulls(CASES["two turns"].messages)), tokenizer, settings)
    [text] = compared_texts(document, tokenizer, settings, reference)
    assert labelled_texts(text, reference) == ["wrote1<|end|>", "wrote2<|end|>"]
    positions = np.flatnonzero(text.ids.has_target)
    only_first = text.ids.has_target & (np.arange(len(text.ids.has_target)) <= positions[len(positions) // 2 - 1])
    half = replace(text, ids=replace(text.ids, has_target=only_first))
    found = labels_outcome([replace(document, sequences=(half.ids,))], [half], settings, reference)
    assert (found.result, "message 4 of the assistant is no label" in found.detail) == ("differs", True)
    found = labels_outcome([replace(document, sequences=(half.ids,))], [text], settings, reference)
    assert "its windows hold" in found.detail


@pytest.mark.slow  # 71 templates, 12 chats each
@pytest.mark.parametrize("case", CASES)
def test_no_real_template_gives_a_false_alarm(case: str) -> None:
    messages, tools = CASES[case]
    problems = []
    for name, source in template_zoo().items():
        ours, theirs = tokenizers_of(source, special=True)
        document = tokenized(Chat(without_nulls(messages), tools), ours, TokenizationSettings(window=64, overlap=8))
        if not isinstance(document, Reject):
            problems += [
                f"{name}: {outcome.check}: {outcome.detail}"
                for outcome in outcomes(document, ours, theirs, TokenizationSettings(window=64, overlap=8))
                if outcome.result != "pass"
            ]
    assert problems == []


def test_the_reference_is_not_ours(make_tokenizer_directory: Directory) -> None:
    assert isinstance(reference_of(make_tokenizer_directory()), PreTrainedTokenizerFast)
