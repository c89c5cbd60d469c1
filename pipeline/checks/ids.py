"""Token ids against the tokenizer of plain transformers on the same text.

Shapes: L tokens of a whole text, n tokens of one window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from logitlake.pipeline.checks.chat_reference import ChatReference, ShownChat
from logitlake.pipeline.checks.outcome import Outcome, judged, name_of
from logitlake.pipeline.corpus.document import Chat, Document, Pair, Trace
from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.pipeline.tokens.sequences import TokenizedDocument, TokenSequence, tokenize_documents
from logitlake.pipeline.tokens.tokenizer import TextTokenizer

# Longer than any document: one window holds a whole text.
_NO_WINDOW = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ComparedText:
    """One text of a document as this project tokenizes it, and what transformers says of it.

    `ids` has no window: a whole text, with its labels. `shown` and `chat`: the part of a chat that the text shows,
    where transformers has the same text. `first_label`: of a text or a pair, the index of the first token that may be a
    label. `problem`: what differs, or "".
    """

    document: Document
    ids: TokenSequence
    problem: str
    first_label: int = 1
    chat: ChatReference | None = None
    shown: ShownChat | None = None


def compared_texts(
    tokenized: TokenizedDocument, tokenizer: TextTokenizer, settings: TokenizationSettings, reference: Any
) -> list[ComparedText]:
    """The texts of a document: one, or several for some chats. `reference` is the tokenizer of transformers."""
    document = tokenized.document
    whole = settings.model_copy(update={"window": _NO_WINDOW, "overlap": 0})
    [outcome] = tokenize_documents([document], tokenizer, whole)
    assert isinstance(outcome, TokenizedDocument), f"{name_of(document)}: a reject without windows, a document with"
    if isinstance(document.content, Chat):
        chat = ChatReference(reference, tokenizer.require_chat_template(), document.content)
        texts = [_compared_chat(document, ids, chat, settings) for ids in outcome.sequences]
    else:
        texts = [_compared_text(document, outcome.sequences[0], reference, settings)]
    return [_with_windows(text, tokenized.sequences) for text in texts]


def ids_outcome(texts: Sequence[ComparedText]) -> Outcome:
    """How many documents have another id anywhere than transformers gives; none may."""
    problems = [text.problem for text in texts if text.problem]
    return judged(
        "ids",
        compared=len({text.document.doc_id for text in texts}),
        unit="documents",
        difference=len({text.document.doc_id for text in texts if text.problem}),
        bound=0,
        measure="documents",
        detail=problems[0] if problems else "",
    )


def expected_ids(
    content: str | Pair, found: list[int], reference: Any, settings: TokenizationSettings
) -> tuple[list[int], int]:
    """The ids of transformers for a text or a pair, and the index of the first token that may be a label.

    Where a token crosses from the prompt into the completion, a pair is the prompt's ids and any further ids that
    decode to the same text; these are taken from `found`.
    """
    text, prompt = (content, "") if isinstance(content, str) else (content.prompt + content.completion, content.prompt)
    ids, prompt_ids = _plain(reference, text), _plain(reference, prompt) if prompt else []
    bos, eos = reference.bos_token_id, reference.eos_token_id
    with_special = list(reference(text)["input_ids"])
    adds_bos = with_special[:1] == [bos] if settings.bos == "auto" else settings.bos == "always"
    before = [bos] if adds_bos and (prompt_ids or ids)[:1] != [bos] else []
    if ids[: len(prompt_ids)] != prompt_ids:
        own = found[len(before) :]
        own = own[:-1] if settings.eos and own[-1:] == [eos] else own
        same = own[: len(prompt_ids)] == prompt_ids and reference.decode(own) == reference.decode(ids)
        ids = own if same else ids
    after = [eos] if settings.eos and (ids[-1:] != [eos] or len(ids) <= len(prompt_ids)) else []
    return [*before, *ids, *after], max(len(before) + len(prompt_ids), 1)


def _compared_text(
    document: Document, sequence: TokenSequence, reference: Any, settings: TokenizationSettings
) -> ComparedText:
    assert isinstance(document.content, str | Pair | Trace)
    found = sequence.input_ids.tolist()
    if isinstance(document.content, Trace):
        # Its ids are those that the writer wrote: transformers is not asked.
        first_label = max(len(document.content.prompt_ids), 1)
        return ComparedText(document=document, ids=sequence, problem="", first_label=first_label)
    expected, first_label = expected_ids(document.content, found, reference, settings)
    problem = "" if found == expected else f"{name_of(document)}: {_first_difference(found, expected, reference)}"
    return ComparedText(document=document, ids=sequence, problem=problem, first_label=first_label)


def _compared_chat(
    document: Document, sequence: TokenSequence, chat: ChatReference, settings: TokenizationSettings
) -> ComparedText:
    found = sequence.input_ids.tolist()
    bos = chat.tokenizer.bos_token_id
    nearest: list[int] = []
    for shown in chat.shown():
        ids = chat.ids(shown.text)
        expected = [bos, *ids] if settings.bos == "always" and ids[:1] != [bos] else ids
        if found == expected:
            return ComparedText(document=document, ids=sequence, problem="", chat=chat, shown=shown)
        nearest = max(nearest, expected, key=lambda other: _shared(found, other))
    what = _first_difference(found, nearest, chat.tokenizer) if nearest else "transformers refuses the chat"
    return ComparedText(
        document=document, ids=sequence, problem=f"{name_of(document)}: apply_chat_template: {what}", chat=chat
    )


def _with_windows(text: ComparedText, windows: Sequence[TokenSequence]) -> ComparedText:
    """The same, with a problem if a window of the document holds other ids than its place in the text."""
    begin, ids_L = text.ids.start, text.ids.input_ids
    for window in windows:
        at = window.start - begin
        if 0 <= at < len(ids_L) and not np.array_equal(window.input_ids, ids_L[at : at + len(window.input_ids)]):
            problem = f"{name_of(text.document)}: window {window.window} holds other ids than the text at token {at}"
            return ComparedText(document=text.document, ids=text.ids, problem=text.problem or problem)
    return text


def _plain(reference: Any, text: str) -> list[int]:
    return list(reference(text, add_special_tokens=False)["input_ids"])


def _shared(first: list[int], second: list[int]) -> int:
    shorter = min(len(first), len(second))
    return next((index for index in range(shorter) if first[index] != second[index]), shorter)


def _first_difference(found: list[int], expected: list[int], reference: Any) -> str:
    at = _shared(found, expected)
    here, there = (_token(ids, at, reference) for ids in (found, expected))
    return f"token {at} is {here}, transformers gives {there}"


def _token(ids: list[int], at: int, reference: Any) -> str:
    return f"{reference.convert_ids_to_tokens(ids[at])!r} ({ids[at]})" if at < len(ids) else "the end"
