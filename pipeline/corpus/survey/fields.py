"""Which fields of a record hold its document, from a sample of records."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from logitlake.pipeline.corpus.messages import messages_of, tools_of
from logitlake.pipeline.corpus.reject_reason import UnusableError

Record = Mapping[str, Any]

_CHATS = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "chosen")
_TOOLS = ("tools", "functions")
_PAIRS = (
    *(("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), ("instruction", "response")),
    *(("question", "answer"), ("query", "answer"), ("query", "response"), ("problem", "solution"), ("input", "output")),
)
_TEXTS = ("text", "content", "body", "document", "article", "markdown", "code", "raw_content", "story")
_DEFAULT_TEXT, _DEFAULT_TOOLS = "text", "tools"
# Of the records, so many must have a field in the expected form.
_MOST = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """The settings of a corpus that name its fields, in words what they hold, and the fields that are not read."""

    settings: tuple[tuple[str, str | None], ...]
    shape: str
    others: tuple[str, ...]


def fields_in(records: Sequence[Record]) -> Fields | None:
    """The fields of chats, else of pairs of prompt and completion, else of text; None if there is none of them."""
    names = tuple(dict.fromkeys(name for record in records for name in record))
    for field in _in_order(names, _CHATS):
        if forms := _chat_forms(records, field):
            tools = _tools(records, names)
            shape = "chats (ShareGPT: from and value)" if "from" in forms else "chats"
            read = {field, *(name for _, name in tools if name)}
            return _fields((("messages_field", field), *tools), shape, names, read)
    for prompt, completion in _PAIRS:
        if _mostly_text(records, prompt) and _mostly_text(records, completion):
            settings = (("prompt_field", prompt), ("completion_field", completion))
            return _fields(settings, "prompts and completions", names, {prompt, completion})
    text = next((name for name in _TEXTS if _mostly_text(records, name)), None) or _longest_prose(records, names)
    if text is None:
        return None
    return _fields(() if text == _DEFAULT_TEXT else (("text_field", text),), "text", names, {text})


def _fields(settings: Any, shape: str, names: Sequence[str], read: set[str]) -> Fields:
    return Fields(settings=tuple(settings), shape=shape, others=tuple(name for name in names if name not in read))


def _in_order(names: Sequence[str], usual: Sequence[str]) -> Iterator[str]:
    """The usual names first."""
    yield from (name for name in usual if name in names)
    yield from (name for name in names if name not in usual)


def _chat_forms(records: Sequence[Record], field: str) -> set[str]:
    """`role` or `from`, as the messages name their speaker; empty if the field does not hold chats with an answer."""
    chats, forms = 0, set[str]()
    for record in records:
        try:
            messages = messages_of(record.get(field), field)
        except UnusableError:
            continue
        if any(message["role"] == "assistant" for message in messages):
            chats += 1
            first = record[field][0] if isinstance(record[field], list) else None
            forms.add("from" if isinstance(first, dict) and first.get("role") is None else "role")
    return forms if chats >= _MOST * len(records) else set()


def _tools(records: Sequence[Record], names: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    """The setting for the tools that chats offer; none where the default is right."""
    for name in _TOOLS:
        if name in names and _holds_tools(records, name):
            return () if name == _DEFAULT_TOOLS else (("tools_field", name),)
    return (("tools_field", None),) if _DEFAULT_TOOLS in names else ()


def _holds_tools(records: Sequence[Record], name: str) -> bool:
    try:
        for record in records:
            tools_of(record.get(name), name)
    except UnusableError:
        return False
    return True


def _mostly_text(records: Sequence[Record], name: str) -> bool:
    return bool(records) and len(list(_texts(records, name))) >= _MOST * len(records)


def _longest_prose(records: Sequence[Record], names: Sequence[str]) -> str | None:
    """The field with the longest texts, of those whose texts have words: an id or a URL has none."""
    lengths = {name: _length_of_prose(records, name) for name in names if _mostly_text(records, name)}
    longest = max(lengths, key=lambda name: lengths[name], default=None)
    return longest if longest is not None and lengths[longest] else None


def _length_of_prose(records: Sequence[Record], name: str) -> int:
    return sum(len(text) for text in _texts(records, name) if len(text.split()) > 1)


def _texts(records: Sequence[Record], name: str) -> Iterator[str]:
    for record in records:
        value = record.get(name)
        if isinstance(value, str) and value.strip():
            yield value
