"""Documents of a corpus, and rejects for lines, rows and files that can't be used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from logitlake.pipeline.corpus.messages import messages_of, texts, tools_of
from logitlake.pipeline.corpus.reject_reason import RejectReason as RejectReason
from logitlake.pipeline.corpus.reject_reason import UnusableError
from logitlake.pipeline.settings.corpus import CorpusSettings
from logitlake.storage.identity import document_id


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its completion: only the completion carries targets."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages as JSON objects with at least a `role`, and the tools that are offered; keys that hold null left out."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """A completion that a model wrote for a prompt: token ids as written, and the writer's log-probability of each.

    `sampling` is the writer and its settings as JSON; `score` and `reason` are those of the last verdict.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    tokenizer_id: str
    writer: str
    sampling: str
    seed: int
    sample_number: int
    score: float | None
    reason: str | None


# What a record of a file can hold.
RecordContent = str | Pair | Chat
Content = RecordContent | Trace


@dataclass(frozen=True, slots=True)
class Document:
    """One text, pair, chat or trace.

    `source` is relative to the corpus root; `line` counts from 1, None for a whole file.
    """

    doc_id: str
    content: Content
    corpus: str
    source: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Reject:
    """A line, row or file of a corpus that can't be used, with the reason for a machine and the detail for a person."""

    corpus: str
    source: str
    line: int | None
    reason: RejectReason
    detail: str


_MAX_DETAIL = 500

DocumentBuilder = Callable[[Mapping[str, Any], str, int | None], Document | Reject]


def fields_of(settings: CorpusSettings) -> tuple[str, ...]:
    """The fields of a record that the corpus needs."""
    if settings.messages_field:
        return (settings.messages_field,)
    if settings.prompt_field and settings.completion_field:
        return (settings.prompt_field, settings.completion_field)
    return (settings.text_field,)


def optional_fields_of(settings: CorpusSettings) -> tuple[str, ...]:
    """The fields of a record that the corpus reads if they are there."""
    return (settings.tools_field,) if settings.messages_field and settings.tools_field else ()


def document_builder(settings: CorpusSettings) -> DocumentBuilder:
    """A function of a record, its source and its line that returns a document, or a reject with the reason."""
    corpus = settings.name
    content_of = _content_reader(settings)

    def build(record: Mapping[str, Any], source: str, line: int | None) -> Document | Reject:
        try:
            content = content_of(record)
            return Document(_identity(content), content, corpus, source, line)
        except UnusableError as unusable:
            return Reject(corpus, source, line, unusable.reason, _shortened(unusable.detail))

    return build


def _shortened(detail: str) -> str:
    """A detail may quote what a record holds, which may be of any length."""
    return detail if len(detail) <= _MAX_DETAIL else f"{detail[:_MAX_DETAIL]} …"


def _identity(content: RecordContent) -> str:
    """The document id; raises UnusableError for a chat that holds what JSON can't (dates, bytes, NaN)."""
    try:
        if isinstance(content, str):
            return document_id(content)
        if isinstance(content, Pair):
            return document_id({"prompt": content.prompt, "completion": content.completion})
        if content.tools:
            return document_id({"messages": content.messages, "tools": content.tools})
        return document_id(content.messages)
    except (TypeError, ValueError) as error:
        raise UnusableError(RejectReason.WRONG_TYPE, f"messages are not plain JSON: {error}") from None


def _content_reader(settings: CorpusSettings) -> Callable[[Mapping[str, Any]], RecordContent]:
    fields = fields_of(settings)
    check_length = _length_check(settings)

    def text(record: Mapping[str, Any]) -> str:
        value = _string(record, fields[0])
        check_length(fields[0], value, len(value))
        return value

    def pair(record: Mapping[str, Any]) -> Pair:
        prompt, completion = _string(record, fields[0]), _string(record, fields[1])
        check_length(fields[1], completion, len(prompt) + len(completion))
        return Pair(prompt, completion)

    def chat(record: Mapping[str, Any]) -> Chat:
        messages = messages_of(_field(record, fields[0]), fields[0])
        words = "".join(text for message in messages for text in texts(message.get("content")))
        check_length(fields[0], words, len(words))
        tools = tools_of(record.get(settings.tools_field), settings.tools_field) if settings.tools_field else ()
        return Chat(messages, tools)

    if settings.messages_field:
        return chat
    return pair if settings.prompt_field else text


def _length_check(settings: CorpusSettings) -> Callable[[str, str, int], None]:
    """A check of (name of the field, text that must not be blank, characters of the whole document)."""
    low = settings.min_characters
    high = settings.max_characters

    def check(field: str, text: str, length: int) -> None:
        if not text or text.isspace():
            raise UnusableError(RejectReason.EMPTY, f"{field} holds no text")
        if length < low:
            raise UnusableError(RejectReason.TOO_SHORT, f"{length} characters, min_characters is {low}")
        if high is not None and length > high:
            raise UnusableError(RejectReason.TOO_LONG, f"{length} characters, max_characters is {high}")

    return check


def _field(record: Mapping[str, Any], name: str) -> Any:
    try:
        return record[name]
    except KeyError:
        fields = ", ".join(sorted(record)[:20]) or "none"
        raise UnusableError(RejectReason.MISSING_FIELD, f"no field {name!r}; fields here: {fields}") from None
    except TypeError:
        kind = type(record).__name__
        raise UnusableError(RejectReason.WRONG_TYPE, f"expected an object with fields, found {kind}") from None


def _string(record: Mapping[str, Any], name: str) -> str:
    value = _field(record, name)
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise UnusableError(RejectReason.NOT_UTF8, f"{name}: {error}") from None
    raise UnusableError(RejectReason.WRONG_TYPE, f"{name} should be text, found {type(value).__name__}")
