"""Labels against plain transformers: in a chat only what the assistant wrote, or what ends its turn, is a label.

What the assistant wrote is what `apply_chat_template` adds to the chat before the turn and the generation prompt.

Shapes: L tokens of a whole text.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from logitlake.pipeline.checks.chat_reference import ShownChat, shared_length
from logitlake.pipeline.checks.ids import ComparedText
from logitlake.pipeline.checks.outcome import Outcome, judged, name_of
from logitlake.pipeline.corpus.document import Chat
from logitlake.pipeline.corpus.messages import texts as texts_of
from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.pipeline.tokens.sequences import TokenizedDocument

# Some templates end a turn only if another message follows, by the first tag of that message.
_TAG = re.compile(r"\s*(?:<[^<>\s]+>|\[[^\[\]\s]+\])")


class Turn(NamedTuple):
    """One turn of the assistant in a text: characters [start, end) may be labels, [first, last) must be."""

    message: int
    start: int
    end: int
    first: int
    last: int


class _Found(NamedTuple):
    n_labels: int
    problems: list[str]


def labels_outcome(
    documents: Sequence[TokenizedDocument],
    texts: Sequence[ComparedText],
    settings: TokenizationSettings,
    reference: Any,
) -> Outcome:
    """How many labels are wrong or missing; none may be. Texts whose ids differ are not looked at."""
    found = [
        _of_document(tokenized, of_document, settings, reference)
        for tokenized in documents
        if (of_document := [text for text in texts if text.document is tokenized.document])
        and not any(text.problem for text in of_document)
    ]
    problems = [problem for of_document in found for problem in of_document.problems]
    return judged(
        "labels",
        compared=sum(of_document.n_labels for of_document in found),
        unit="labels",
        difference=len(problems),
        bound=0,
        measure="wrong or missing labels",
        detail=problems[0] if problems else "the ids of all documents differ",
    )


def labelled_texts(text: ComparedText, reference: Any) -> list[str]:
    """The labels of a text, decoded: one piece for each run of labels."""
    is_label_L = _labels(text)
    bounds = np.flatnonzero(np.diff(np.concatenate(([False], is_label_L, [False]))))
    ids = text.ids.input_ids.tolist()
    return [
        str(reference.decode(ids[begin:end], skip_special_tokens=False))
        for begin, end in zip(bounds[::2].tolist(), bounds[1::2].tolist(), strict=True)
    ]


def _of_document(
    tokenized: TokenizedDocument, texts: Sequence[ComparedText], settings: TokenizationSettings, reference: Any
) -> _Found:
    name = name_of(tokenized.document)
    n_labels = sum(int(text.ids.has_target.sum()) for text in texts)
    whole = {text.ids.start + int(at) + 1 for text in texts for at in np.flatnonzero(text.ids.has_target)}
    in_windows = [s.start + int(at) + 1 for s in tokenized.sequences for at in np.flatnonzero(s.has_target)]
    if sorted(in_windows) != sorted(whole):
        return _Found(
            n_labels, [f"{name}: its windows hold {len(in_windows)} labels, expected {len(whole)}, each once"]
        )
    if not isinstance(tokenized.document.content, Chat) or settings.chat_targets == "all":
        problems = [_problem_of_text(text, reference) for text in texts]
    else:
        problems = _problems_of_chat(texts, reference)
    return _Found(n_labels, [f"{name}: {problem}" for problem in problems if problem])


def _problem_of_text(text: ComparedText, reference: Any) -> str:
    """Every token from `first_label` on is a label, and no other."""
    is_label_L = _labels(text)
    expected_L = np.arange(len(is_label_L)) >= text.first_label
    wrong = np.flatnonzero(is_label_L != expected_L)
    if not len(wrong):
        return ""
    at = int(wrong[0])
    token = reference.convert_ids_to_tokens(int(text.ids.input_ids[at]))
    found = "a label" if is_label_L[at] else "no label"
    return f"token {at} {token!r} is {found}, expected labels from token {text.first_label} on"


def _problems_of_chat(texts: Sequence[ComparedText], reference: Any) -> list[str]:
    problems: list[str] = []
    labelled: set[int] = set()
    for text in texts:
        assert text.chat is not None and text.shown is not None
        is_label_L, offsets_L2 = _labels(text), _offsets(text, reference)
        turns = turns_of(text.shown, text)
        begins_L, ends_L = offsets_L2[:, 0], offsets_L2[:, 1]
        allowed_L = np.zeros(len(is_label_L), np.bool_)
        for turn in turns:
            allowed_L |= (begins_L < turn.end) & (ends_L > turn.start)
            inside_L = (begins_L < turn.last) & (ends_L > turn.first)
            if inside_L.any() and is_label_L[inside_L].all():
                labelled.add(turn.message)
        for at in np.flatnonzero(is_label_L & ~allowed_L & (begins_L < ends_L)).tolist():
            token = text.shown.text[begins_L[at] : ends_L[at]]
            problems.append(f"token {at} {token!r} is a label, and the assistant did not write it")
    problems += [
        f"message {message + 1} of the assistant is no label from its first to its last character"
        for message in sorted(_visible(texts[-1]) - labelled)
    ]
    return problems


def _visible(text: ComparedText) -> set[int]:
    """The messages of the assistant whose content the template shows as it is: they must be labels.

    None where the template itself marks what it wants to be learned.
    """
    assert text.chat is not None and text.shown is not None
    if text.chat.tracks_generation:
        return set()
    numbers = set()
    for number, message in enumerate(text.shown.messages):
        own = text.chat.text(text.shown.messages, number + 1) if message.get("role") == "assistant" else None
        if own is not None:
            first, last = _content(message, own, text.chat.start_of_turn(text.shown.messages, number)[1])
            numbers |= {number} if last > first else set()
    return numbers


def turns_of(shown: ShownChat, text: ComparedText) -> list[Turn]:
    """The assistant's turns that a text shows, by what transformers renders up to each of them.

    A turn begins where the chat that ends with it leaves the generation prompt. It ends where that chat ends, without
    the white space behind its last special token, or with the first tag that follows in a longer text. A turn whose
    content the template does not show as it is has no characters that must be labels.
    """
    assert text.chat is not None
    closing = _closing(text.chat.special_tokens())
    turns = []
    for number, message in enumerate(shown.messages[: shown.n_messages]):
        if message.get("role") != "assistant":
            continue
        own = text.chat.text(shown.messages, number + 1)
        if own is None:
            continue
        start, latest = text.chat.start_of_turn(shown.messages, number)
        shared = shared_length(own, shown.text)
        if shared <= start:
            continue  # later turns hide this one; another text shows it
        first, last = _content(message, own, latest)
        end = shared
        plain = last > first and not message.get("tool_calls") and not text.chat.tracks_generation
        if plain and closing and (match := closing.fullmatch(own, last)):
            end = min(shared, match.end(1))
        elif shared == len(own) and (tag := _TAG.match(shown.text, end)):
            end = tag.end()
        if last > shared:
            first = last = start
        turns.append(Turn(number, start, end, first, last))
    return [turn for turn in turns if turn.start < turn.end]


def _closing(special: Iterable[str]) -> re.Pattern[str] | None:
    """Matches what may follow the content of a message: group 1 holds special tokens, behind it is white space."""
    texts = sorted(special, key=len, reverse=True)
    return re.compile(rf"((?:\s*(?:{'|'.join(map(re.escape, texts))}))+)\s*") if texts else None


def _content(message: Any, own: str, start: int) -> tuple[int, int]:
    """Where the content of a message stands behind `start`; an empty range if the template shows it otherwise."""
    parts = [part.strip() for part in texts_of(message.get("content")) if part.strip()]
    if not parts:
        return start, start
    at = own.find(parts[-1], start)
    return (at, at + len(parts[-1])) if at >= 0 else (start, start)


def _labels(text: ComparedText) -> NDArray[np.bool_]:
    """Which tokens `[L]` are labels: token i + 1 where position i has a target."""
    return np.concatenate(([False], text.ids.has_target[:-1]))


def _offsets(text: ComparedText, reference: Any) -> NDArray[np.int64]:
    """The characters `[L, 2]` of each token by transformers; a BOS that the text does not hold has none."""
    assert text.shown is not None
    encoded = reference(text.shown.text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = [tuple(pair) for pair in encoded["offset_mapping"]]
    n_added = len(text.ids.input_ids) - len(offsets)
    return np.array([*[(0, 0)] * n_added, *offsets], np.int64).reshape(-1, 2)
