"""Marks behind what an assistant wrote, to find where the template's own text after it begins."""

from collections.abc import Mapping
from typing import Any

# No character of any text.
MARK = "\ufdd1"
_TEXT_KEYS = ("content", "reasoning_content", "reasoning", "thinking")

# Most marks first: a template that compares or takes apart a part changes its text if that part is marked.
MARKED_PARTS = (("text", "values", "keys", "name"), ("text", "values"), ("text", "name"), ("text",))


def marked(message: Mapping[str, Any], parts: tuple[str, ...]) -> dict[str, Any]:
    """The message with a mark behind each of its `parts`, before the white space that a template may strip."""
    result = dict(message)
    for key in _TEXT_KEYS:
        if key in result and "text" in parts:
            result[key] = _marked_text(result[key])
    calls = result.get("tool_calls")
    if isinstance(calls, list):
        result["tool_calls"] = [_marked_call(call, parts) for call in calls]
    return result


def _marked_text(value: Any) -> Any:
    if isinstance(value, str):
        stripped = value.rstrip()
        return f"{stripped}{MARK}{value[len(stripped) :]}" if stripped else value
    if isinstance(value, list):
        return [
            {**item, "text": _marked_text(item["text"])} if isinstance(item, dict) and "text" in item else item
            for item in value
        ]
    return value


def _marked_call(call: Any, parts: tuple[str, ...]) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _marked_call(call["function"], parts)}
    result = dict(call)
    if "name" in parts and isinstance(call.get("name"), str):
        result["name"] = call["name"] + MARK
    if "arguments" in call:
        result["arguments"] = _marked_values(call["arguments"], parts)
    return result


def _marked_values(value: Any, parts: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key + MARK if "keys" in parts else key: _marked_values(item, parts) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked_values(item, parts) for item in value]
    return _marked_text(value) if "values" in parts else value
