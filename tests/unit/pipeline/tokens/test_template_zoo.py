"""Every real template with every shape of chat, against plain transformers. See docs/teachers.md."""

import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from logitlake.pipeline.corpus.document import Chat, Document, Reject
from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.pipeline.tokens.chat_template import FIXED_DATE, ChatTemplate, UnusableChatError
from logitlake.pipeline.tokens.chat_turns import chat_views
from logitlake.pipeline.tokens.message_forms import message_forms
from logitlake.pipeline.tokens.sequences import tokenize_documents
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from tests.template_zoo import template_zoo
from tests.unit.pipeline.conftest import train_backend
from tests.unit.pipeline.tokens.chats import CASES, ChatCase, without_nulls

pytestmark = pytest.mark.slow

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
# What transformers itself can't render, for any chat of the zoo, with the sandbox that it has.
REFUSED_BY_TRANSFORMERS = {"fireworks-ai-llama-3-firefunction-v2"}
NEEDS_TOOLS = {
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
}
NO_SYSTEM_OR_TOOLS = {"google-gemma-2-2b-it"}
# They call a method that the sandbox forbids, or need a value that is no part of a chat.
NO_TOOLS = {"Kimi-K2-Instruct", "Kimi-K2-Thinking", "llama-cpp-deepseek-r1"}
WORD = re.compile(r"(?:wrote|asked|told|offered|result)\d")


@pytest.fixture(scope="module")
def zoo() -> dict[str, str]:
    return template_zoo()


def rendered_by_transformers(source: str, messages: Any, tools: Any, **variables: Any) -> str | None:
    """The text of transformers with a clock that stands still; None if it refuses the chat."""
    names = _compile_jinja_template(source).environment.globals
    names.pop("strftime_now", None)
    for clock in ({}, {"strftime_now": FIXED_DATE.strftime}):
        names.update(clock)
        try:
            [text], _ = render_jinja_template(
                [list(messages)], list(tools) or None, chat_template=source, **SPECIAL, **variables
            )
        except Exception:  # a template may raise anything
            continue
        return str(text)
    return None


def own_tags(source: str) -> list[str]:
    """The tags that a template writes, which are special tokens of its own tokenizer."""
    return sorted(set(re.findall(r"<[|｜][^<>'\"{}\s]+?[|｜]>|\[[A-Z_/]{3,}\]|<(?:start|end)_of_\w+>", source)))


def words(text: str) -> list[str]:
    return WORD.findall(text)


def test_the_zoo_is_whole(zoo):
    assert len(zoo) == 71


@pytest.mark.parametrize("case", CASES)
def test_a_template_that_transformers_renders_is_rendered_and_labelled(zoo, case):
    messages, tools = CASES[case]
    problems = []
    for name, source in zoo.items():
        try:
            problems += [f"{name}: {problem}" for problem in problems_of(source, CASES[case])]
        except UnusableChatError as error:
            if any(rendered_by_transformers(source, form, tools) for form in (messages, without_nulls(messages))):
                problems.append(f"{name}: refused ({error})")
    assert problems == []


def test_all_templates_but_a_few_take_a_chat(zoo):
    refused: dict[str, set[str]] = {}
    for name, source in zoo.items():
        for case, (messages, tools) in CASES.items():
            try:
                chat_views(chat_template(source), without_nulls(messages), tools)
            except UnusableChatError:
                refused.setdefault(name, set()).add(case)
    never = {name for name, cases in refused.items() if len(cases) == len(CASES)}
    assert never == REFUSED_BY_TRANSFORMERS
    with_tools = {case for case, (_, tools) in CASES.items() if tools}
    for name in refused.keys() - never:
        allowed = set(CASES) - with_tools if name in NEEDS_TOOLS else with_tools if name in NO_TOOLS else set(CASES)
        assert name in NEEDS_TOOLS | NO_TOOLS | NO_SYSTEM_OR_TOOLS
        assert refused[name] <= allowed


@cache
def chat_template(source: str) -> ChatTemplate:
    return ChatTemplate(source, special_tokens=SPECIAL, control_tokens=own_tags(source), origin="zoo")


def problems_of(source: str, case: ChatCase) -> list[str]:
    """What is wrong with the texts and labels of a chat, by transformers' renders of the chat up to each turn."""
    messages, tools = case
    template = chat_template(source)
    views = chat_views(template, without_nulls(messages), tools)
    forms = [messages, *message_forms(without_nulls(messages))]
    form = next(form for form in forms if shows(source, form, tools, views[-1].text))
    problems = []
    texts = [rendered_by_transformers(source, form[:end], tools) for end in range(1, len(form) + 1)]
    for text, _ in views:
        if text not in texts:
            problems.append(f"text is not transformers': {text!r}")
    labelled = [text[start:end] for text, spans in views for start, end in spans]
    if any(not word.startswith("wrote") for word in words("".join(labelled))):
        problems.append(f"labels hold what others wrote: {labelled}")
    shown = []
    for number, message in enumerate(form):
        if message["role"] == "assistant":
            own = rendered_by_transformers(source, form[: number + 1], tools)
            assert own is not None
            own_words = [word for word in words(own) if word in words(str(message))]
            shown += own_words
            if own_words and not template.tracks_generation:
                problems += problems_of_turn(source, form[:number], tools, own, views)
    if sorted(set(shown)) != sorted(words("".join(labelled))):
        problems.append(f"expected each of {shown} once in the labels {labelled}")
    return problems


def shows(source: str, messages: Any, tools: Any, text: str) -> bool:
    return any(rendered_by_transformers(source, messages[:end], tools) == text for end in range(1, len(messages) + 1))


def problems_of_turn(source: str, before: Any, tools: Any, own: str, views: list[Any]) -> list[str]:
    """The span of the turn that ends the text `own`: behind the generation prompt, up to the token that ends it."""
    spans = [span for text, of_text in views for span in of_text if own.startswith(text[: span[0]])]
    if not spans:
        return [f"no span of the turn that ends {own!r}"]
    start, end = max(spans)
    plain = rendered_by_transformers(source, before, tools)
    prompt = rendered_by_transformers(source, before, tools, add_generation_prompt=True)
    problems = []
    if prompt is not None and prompt != plain and own.startswith(prompt) and start != len(prompt):
        problems.append(f"label begins at {start}, the prompt ends at {len(prompt)}: {own[start:end]!r}")
    last_word = [match.end() for match in WORD.finditer(own)][-1]
    if last_word >= start and own[last_word:].strip() and not own[last_word:end].strip():
        problems.append(f"label ends before the token that closes the turn: {own[start:end]!r}")
    if last_word > end:
        problems.append(f"label ends inside the turn: {own[start:end]!r}")
    return problems


@cache
def trained() -> str:
    return train_backend().to_str()


@cache
def tokenizers_of(source: str, *, special: bool) -> tuple[TextTokenizer, PreTrainedTokenizerFast]:
    """Ours and transformers', with the template's tags as special tokens or as plain text."""
    backend = Tokenizer.from_str(trained())
    tags = own_tags(source) if special else []
    backend.add_special_tokens([AddedToken(tag, special=True, normalized=False) for tag in tags])
    template = ChatTemplate(source, special_tokens=SPECIAL, control_tokens=tags, origin="zoo")
    ours = TextTokenizer(Tokenizer.from_str(backend.to_str()), config=SPECIAL, own_template=source, template=template)
    theirs = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=source, **SPECIAL)
    return ours, theirs


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_ids_and_labels_are_those_of_the_text(zoo, case, special):
    messages, tools = CASES[case]
    problems = []
    for name, source in zoo.items():
        ours, theirs = tokenizers_of(source, special=special)
        chat = Chat(without_nulls(messages), tools)
        settings = TokenizationSettings(window=100_000)
        [outcome] = tokenize_documents([Document("d", chat, "corpus", "file", 1)], ours, settings)
        if isinstance(outcome, Reject):
            assert outcome.reason == "bad_chat"
            continue
        views = chat_views(ours.require_chat_template(), chat.messages, chat.tools)
        starts = np.cumsum([0, *(len(sequence.input_ids) for sequence in outcome.sequences)])
        if [sequence.start for sequence in outcome.sequences] != starts[:-1].tolist():
            problems.append(f"{name}: texts are not one after the other")
        for sequence, (text, spans) in zip(outcome.sequences, views, strict=True):
            if sequence.input_ids.tolist() != theirs(text, add_special_tokens=False).input_ids:
                problems.append(f"{name}: ids are not those of the text {text!r}")
            ids = sequence.input_ids[1:][sequence.has_target[:-1]].tolist()
            labelled = theirs.decode(ids, skip_special_tokens=False)
            expected = "".join(text[start:end] for start, end in spans)
            if labelled != expected and (special or expected not in labelled):
                problems.append(f"{name}: labels {labelled!r}, expected {expected!r}")
    assert problems == []
