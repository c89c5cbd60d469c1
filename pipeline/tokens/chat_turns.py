"""What the assistant wrote in a chat, turn by turn, as the model saw it.

The reference for a turn is the chat that ends with it: thinking is still there, which many templates take out of
earlier turns. The text after the generation prompt, up to the end of the turn, is what the model wrote.
"""

import json
import re
from functools import lru_cache
from typing import Any, NamedTuple

from logitlake.pipeline.tokens.chat_template import ChatTemplate, Messages, RenderedChat, Tools, UnusableChatError
from logitlake.pipeline.tokens.message_forms import message_forms
from logitlake.pipeline.tokens.message_marks import MARK, MARKED_PARTS, marked
from logitlake.storage.identity import canonical_json

# Each turn is rendered with all messages before it: twice these characters take seconds.
_MOST_RENDERED = 200_000_000
# Each turn that later ones show otherwise is a text of its own, with all messages before it.
_MOST_TRAINED = 20_000_000
_TAG = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_NEXT_TAG = re.compile(rf"\s*({_TAG.pattern})")
_NULL = re.compile("None|null")
_OPEN_TAG = re.compile(r"[<\[][^<>\[\]\s]*$")


class _Turn(NamedTuple):
    """The chat up to a turn of the assistant, and what the assistant wrote in it; closed if an end follows."""

    text: str
    spans: tuple[tuple[int, int], ...]
    is_closed: bool


def whole_text(template: ChatTemplate, messages: Messages, tools: Tools = None) -> str:
    """The chat as text. Raises UnusableChatError if the template refuses it."""
    _, text = _renderable(template, messages, tools)
    return text


def chat_views(template: ChatTemplate, messages: Messages, tools: Tools = None) -> list[RenderedChat]:
    """The texts that hold every assistant turn as the model saw it, and each turn's span in one of them.

    One text, the whole chat, if it begins with each turn's own text; else one more text for each turn that later turns
    show otherwise, such as without its thinking. Raises UnusableChatError if the template refuses the chat.
    """
    messages, whole = _renderable(template, messages, tools)
    n_turns = sum(message.get("role") == "assistant" for message in messages)
    _check_length("its turns, each with all that comes before it,", n_turns * len(whole), _MOST_RENDERED)
    turns = [
        _turn(template, messages[: number + 1], tools)
        for number, message in enumerate(messages)
        if message.get("role") == "assistant"
    ]
    seen = [turn.text[: turn.spans[-1][1]] if turn.spans else "" for turn in turns]
    if template.tracks_generation and all(map(whole.startswith, seen)):
        return [template.render(messages, tools)]
    texts = [*(turn.text for turn in turns), whole]
    spans: list[list[tuple[int, int]]] = [[] for _ in texts]
    for number, turn in enumerate(turns):
        last = max(index for index in range(number, len(texts)) if texts[index].startswith(seen[number]))
        spans[last] += _with_end_of_turn(template, turn, texts[last])
    views = [RenderedChat(text, tuple(of_text)) for text, of_text in zip(texts, spans, strict=True) if of_text]
    _check_length("the texts that its turns need", sum(len(view.text) for view in views), _MOST_TRAINED)
    return views or [RenderedChat(whole, ())]


def _check_length(what: str, n_characters: int, most: int) -> None:
    """Raises UnusableChatError for a chat that alone would take minutes and gigabytes."""
    if n_characters > most:
        raise UnusableChatError(f"{what} have {n_characters:,} characters, more than {most:,}: split the chat")


def _with_end_of_turn(template: ChatTemplate, turn: _Turn, longer: str) -> list[tuple[int, int]]:
    """The spans of a turn, the last one with the tag that follows in a longer text where the turn itself has no end.

    Some templates close a turn only if another message follows. Others never do: their models end a turn by writing
    the first tag of the next message, such as `<|observation|>` behind a tool call. Such a tag is taken if the
    tokenizer says that it is special.
    """
    if not turn.spans or turn.spans[-1][1] < len(turn.text) or turn.text.endswith(template.control_tokens):
        return list(turn.spans)
    start, end = turn.spans[-1]
    tag = _NEXT_TAG.match(longer, end)
    if tag is None:
        return list(turn.spans)
    special, opens = tag[1] in template.control_tokens, tag[1] in _first_header(template)
    closes = (special or not opens) if not turn.is_closed else (special and not opens)
    return [*turn.spans[:-1], (start, tag.end() if closes else end)]


@lru_cache(maxsize=64)
def _first_header(template: ChatTemplate) -> str:
    """The text before the first message of a user."""
    text = _text_or_none(template, [{"role": "user", "content": MARK}], None)
    return text.partition(MARK)[0] if text else ""


def _renderable(template: ChatTemplate, messages: Messages, tools: Tools) -> tuple[Messages, str]:
    """The first form of the messages that the template takes, and its text; the refusal of the first form if none."""
    refusal: UnusableChatError | None = None
    for form in message_forms(messages):
        try:
            return _without_printed_nulls(template, form, template.render_text(form, tools), tools)
        except UnusableChatError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def _without_printed_nulls(template: ChatTemplate, messages: Messages, text: str, tools: Tools) -> tuple[Messages, str]:
    """The messages and their text, or those with an empty content if the template prints null as a word."""
    if not any("content" in message and message["content"] is None for message in messages):
        return messages, text
    empty = [{**message, "content": ""} if message.get("content", "") is None else message for message in messages]
    without = _text_or_none(template, empty, tools)
    printed = without is not None and _NULL.sub("", text) == _NULL.sub("", without)
    return (empty, without) if without is not None and printed else (messages, text)


def _turn(template: ChatTemplate, messages: Messages, tools: Tools) -> _Turn:
    """The last message of a chat."""
    text, generated = template.render(messages, tools)
    if template.tracks_generation:
        prompt = _text_or_none(template, messages[:-1], tools, add_generation_prompt=True) or ""
        shared = _shared_length(text, prompt)
        spans = tuple(span for span in generated if span[1] > shared and span[0] < span[1])
        return _Turn(text, spans, is_closed=True)
    start = _start(template, messages, text, tools)
    end, is_closed = _end(template, messages, text, start, tools)
    return _Turn(text, ((start, end),) if start < end else (), is_closed)


def _start(template: ChatTemplate, messages: Messages, text: str, tools: Tools) -> int:
    """Where the assistant's text begins: behind the generation prompt.

    Templates may show a turn behind another prompt than the one that they write for generation: if thinking is on and
    the turn has none, or if they show the messages before it otherwise.
    """
    before, number = messages[:-1], len(messages) - 1
    if not before:
        return _after_first_header(template, text, tools)
    prompt = _text_or_none(template, before, tools, add_generation_prompt=True)
    plain = _text_or_none(template, before, tools)
    header = None
    if prompt is None or prompt == plain or not text.startswith(prompt):
        header = _header(template, before, text, tools)
    if prompt is not None and text.startswith(prompt):
        unasked = prompt == plain and header is not None and text[len(prompt) : header].strip()
        return header if header is not None and unasked else len(prompt)
    for thinking in (False, True):
        switches = {"enable_thinking": thinking, "thinking": thinking}
        switched = _text_or_none(template, before, tools, add_generation_prompt=True, **switches)
        if switched is not None and text.startswith(switched):
            return len(switched)
    asked = prompt.removeprefix(plain) if prompt and plain and prompt.startswith(plain) else ""
    if prompt is not None and plain is not None and text.startswith(plain):
        return _behind_shared_prompt(text, prompt, asked, header)
    if header is not None:
        at = text.rfind(asked, 0, header) if asked else -1
        return at + len(asked) if at >= 0 else header
    shared = _whole_tags(text[: _shared_length(text, prompt or "")])
    last = _end_of_parts(template, messages, number - 1, text, tools)
    if last is None or shared < last:
        raise UnusableChatError("the template shows a turn otherwise than it asks for it: its beginning is unknown")
    return shared


def _behind_shared_prompt(text: str, prompt: str, asked: str, header: int | None) -> int:
    """The end of what a text and the generation prompt share, up to a whole tag; or the end of the template's header.

    The header is the better one if the rest of it is the prompt's too, or is an empty thought. `asked` is what the
    prompt adds to the chat before it.
    """
    start = _whole_tags(text[: _shared_length(text, prompt)])
    if header is not None and header > start:
        rest = text[start:header]
        if prompt.endswith(rest) or "think" in rest.lower():
            return header
        if asked and asked in rest:
            return start + rest.rindex(asked) + len(asked)
    return start


def _header(template: ChatTemplate, before: Messages, text: str, tools: Tools) -> int | None:
    """The end of the template's header, from a turn with a text that is easy to find; None if it is another header."""
    probe = _text_or_none(template, [*before, {"role": "assistant", "content": MARK}], tools)
    if probe is None or MARK not in probe:
        return None
    header = probe[: probe.index(MARK)]
    return len(header) if text.startswith(header) else None


def _after_first_header(template: ChatTemplate, text: str, tools: Tools) -> int:
    """Start of the assistant's text in a chat that begins with the assistant: no earlier turn can be rendered."""
    asked = [{"role": "user", "content": "?"}]
    plain = _text_or_none(template, asked, tools)
    prompted = _text_or_none(template, asked, tools, add_generation_prompt=True)
    if plain is not None and prompted is not None:
        header = prompted.removeprefix(plain)
        if header and header != prompted and header in text:
            return text.index(header) + len(header)
    end = _header(template, [], text, tools)
    if end is None:
        raise UnusableChatError(
            "the chat begins with the assistant, and the end of the template's header before its text is unknown"
        )
    return end


def _end(template: ChatTemplate, messages: Messages, text: str, start: int, tools: Tools) -> tuple[int, bool]:
    """The end of the turn, without white space and whatever else the template adds, and whether a token closes it."""
    appendix = _appendix(template, canonical_json(list(tools or ())))
    if appendix and text.endswith(appendix):
        text = text.removesuffix(appendix)
    stripped = start + len(text[start:].rstrip())
    if text[:stripped].endswith(template.control_tokens):
        return stripped, True
    last = _end_of_parts(template, messages, len(messages) - 1, text, tools)
    if last is None or text[last:].strip():
        return stripped, True
    return len(text), False


def _end_of_parts(template: ChatTemplate, messages: Messages, number: int, text: str, tools: Tools) -> int | None:
    """Where the last part of message `number` ends in the text; None if no mark leaves the text as it is."""
    for parts in MARKED_PARTS:
        with_mark = [*messages[:number], marked(messages[number], parts), *messages[number + 1 :]]
        marked_text = _text_or_none(template, with_mark, tools)
        if marked_text is not None and MARK in marked_text and marked_text.replace(MARK, "").startswith(text):
            return len(marked_text[: marked_text.rindex(MARK)].replace(MARK, ""))
    return None


@lru_cache(maxsize=64)
def _appendix(template: ChatTemplate, tools_json: bytes) -> str:
    """What a template adds behind the tag that closes the last message of a chat; "" for most templates.

    It is `\\n<eos>`, for example, or a generation prompt that is there unasked.
    """
    tools = json.loads(tools_json)
    asked, answered = {"role": "user", "content": MARK}, {"role": "assistant", "content": MARK}
    any_user, any_answer = {"role": "user", "content": "?"}, {"role": "assistant", "content": "?"}
    behind = _behind_mark(template, [asked], tools)
    followed = _behind_mark(template, [asked, any_answer], tools)
    if behind is not None and followed is not None and not followed.startswith(behind):
        tag = _TAG.match(behind)
        return behind[tag.end() :] if tag else ""
    behind = _behind_mark(template, [any_user, answered], tools)
    followed = _behind_mark(template, [any_user, answered, any_user], tools)
    if behind is not None and followed is not None and not followed.startswith(behind.rstrip()):
        shared = behind[: _shared_length(behind, followed)]
        closing = shared[: _whole_tags(shared)].rstrip()
        return behind[len(closing) :] if closing else ""
    return ""


def _behind_mark(template: ChatTemplate, messages: Messages, tools: Tools) -> str | None:
    text = _text_or_none(template, messages, tools)
    return text.rpartition(MARK)[2] if text is not None and MARK in text else None


def _text_or_none(template: ChatTemplate, messages: Messages, tools: Tools, **variables: Any) -> str | None:
    try:
        return template.render_text(messages, tools, **variables)
    except UnusableChatError:
        return None


def _shared_length(first: str, second: str) -> int:
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)


def _whole_tags(text: str) -> int:
    """The length of a text without a tag at its end that is not closed."""
    open_tag = _OPEN_TAG.search(text)
    return open_tag.start() if open_tag else len(text)
