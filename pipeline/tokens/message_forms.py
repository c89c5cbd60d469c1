"""Forms of one chat's messages for templates that differ in what they take.

A chat's null values are removed when it is read, and data sets hold the arguments of a tool call as an object or as
JSON text. Some templates want a message's `content` to be there, some can't read null, some want the arguments as an
object, some as text.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from logitlake.pipeline.tokens.chat_template import Messages

_NO_CONTENT: tuple[Mapping[str, Any], ...] = ({}, {"content": None}, {"content": ""})


def message_forms(messages: Messages) -> Iterator[Messages]:
    """The messages as they are, then each other form: other arguments of tool calls, then another absent content."""
    of_arguments = [[_with_arguments(message, convert) for message in messages] for convert in _ARGUMENTS]
    distinct = [form for number, form in enumerate(of_arguments) if form not in of_arguments[:number]]
    lacks_content = any("content" not in message for message in messages)
    for content in _NO_CONTENT if lacks_content else _NO_CONTENT[:1]:
        for form in distinct:
            yield [{**content, **message} for message in form]


def _with_arguments(message: Mapping[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    return {**message, "tool_calls": [_call_with_arguments(call, convert) for call in calls]}


def _call_with_arguments(call: Any, convert: Callable[[Any], Any]) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _call_with_arguments(call["function"], convert)}
    return {**call, "arguments": convert(call["arguments"])} if "arguments" in call else call


def _as_they_are(arguments: Any) -> Any:
    return arguments


def _as_objects(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = json.loads(arguments)
    except ValueError:
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _as_text(arguments: Any) -> Any:
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else arguments


_ARGUMENTS = (_as_they_are, _as_objects, _as_text)
