"""The messages and tools of a chat in the forms that data sets have them, as JSON objects."""

from typing import Any

import orjson

from logitlake.pipeline.corpus.json_line import RepeatedKeyError, TooManyValuesError, parse_json
from logitlake.pipeline.corpus.reject_reason import RejectReason, UnusableError

# Names that chats of ShareGPT use for the roles of templates.
_ROLE_OF = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}
# Far more than chats need; a template or a hash of deeper ones could exceed Python's own limit.
_MAX_DEPTH = 64


def messages_of(value: Any, field: str) -> tuple[dict[str, Any], ...]:
    """The messages in a field's value, keys that hold null left out. Raises UnusableError.

    The value is a list of messages, or JSON text of one. A message is an object, a list of (key, value) pairs, which a
    Parquet map becomes, or JSON text; it has `role` and `content`, or `from` and `value` as in ShareGPT.
    """
    messages = _parsed(value, field)
    if not isinstance(messages, list):
        raise UnusableError(RejectReason.WRONG_TYPE, f"{field} should be a list, found {type(messages).__name__}")
    if not messages:
        raise UnusableError(RejectReason.EMPTY, f"{field} holds no message")
    return tuple(_message(item, f"{field}: message {number}") for number, item in enumerate(messages, start=1))


def tools_of(value: Any, field: str) -> tuple[dict[str, Any], ...]:
    """The tools, or tool calls, in a field's value, keys that hold null left out; null, an empty list and "" are none.

    The value is a list, or JSON text of one; an item is an object, a list of pairs, or JSON text. Raises UnusableError.
    """
    tools = None if value in ("", b"") else _parsed(value, field)
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise UnusableError(RejectReason.WRONG_TYPE, f"{field} should be a list, found {type(tools).__name__}")
    named = ((item, f"{field}: item {number}") for number, item in enumerate(tools, start=1))
    return tuple(_without_nulls(_object(_parsed(item, name), name), name, 0) for item, name in named)


def texts(content: Any) -> list[str]:
    """The texts of a message's content: itself, or the `text` of its parts."""
    if isinstance(content, list):
        return [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return [content] if content else []


def _message(value: Any, name: str) -> dict[str, Any]:
    message = _object(_parsed(value, name), name)
    if message.get("role") is None and message.get("from") is not None:
        message = _from_sharegpt(message, name)
    if not isinstance(message.get("role"), str):
        raise UnusableError(RejectReason.WRONG_TYPE, f"{name} is not an object with a role")
    if not isinstance(message.get("content"), str | list | None):
        kind = type(message["content"]).__name__
        raise UnusableError(RejectReason.WRONG_TYPE, f"{name}: content is {kind}, not text")
    plain: dict[str, Any] = _without_nulls(_with_parsed_calls(message, name), name, 0)
    return plain


def _with_parsed_calls(message: dict[str, Any], name: str) -> dict[str, Any]:
    """The message with its tool calls as objects: a map whose values are all text holds them as JSON text."""
    if message.get("tool_calls") is None:
        return message
    calls = tools_of(message["tool_calls"], f"{name}: tool_calls")
    return {**message, "tool_calls": list(calls)}


def _parsed(value: Any, name: str) -> Any:
    """The value, or what it says if it is JSON text."""
    if not isinstance(value, str | bytes):
        return value
    try:
        return parse_json(value if isinstance(value, bytes) else value.encode())
    except TooManyValuesError as error:
        raise UnusableError(RejectReason.TOO_LONG, f"{name}: JSON text of {error}") from None
    except RepeatedKeyError as error:
        raise UnusableError(RejectReason.REPEATED_KEY, f"{name}: {error}") from None
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        raise UnusableError(RejectReason.WRONG_TYPE, f"{name} is text, but not JSON: {error}") from None


def _object(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        pairs = dict(value)
        if len(pairs) < len(value):
            raise UnusableError(RejectReason.REPEATED_KEY, f"{name} has a key twice")
        value = pairs
    if not isinstance(value, dict):
        raise UnusableError(RejectReason.WRONG_TYPE, f"{name} is not an object, found {type(value).__name__}")
    return value


def _from_sharegpt(message: dict[str, Any], name: str) -> dict[str, Any]:
    """The message with `role` and `content` in place of `from` and `value`; other keys stay."""
    speaker = message["from"]
    role = _ROLE_OF.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise UnusableError(
            RejectReason.WRONG_TYPE, f"{name}: from is {speaker!r}, expected one of {', '.join(_ROLE_OF)}"
        )
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    return {**rest, "role": role, "content": message.get("value")}


def _without_nulls(value: Any, name: str, depth: int) -> Any:
    """Remove keys that hold null: Parquet can't distinguish them from absent keys, and a chat needs one id."""
    if depth > _MAX_DEPTH:
        raise UnusableError(RejectReason.WRONG_TYPE, f"{name} is nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        return {key: _without_nulls(item, name, depth + 1) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item, name, depth + 1) for item in value]
    return value
