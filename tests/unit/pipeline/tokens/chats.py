"""Chats of every shape whose words say who wrote them: `wrote1` is the assistant's, `asked1` is not."""

from typing import Any, NamedTuple

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "offered1",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "offered2"}}},
    },
}


class ChatCase(NamedTuple):
    """Messages with their null values, as a data set has them, and tools."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(arguments: Any, number: int = 1) -> dict[str, Any]:
    return {"id": f"call0000{number}", "type": "function", "function": {"name": "weather", "arguments": arguments}}


def result(number: int = 1) -> dict[str, Any]:
    return {"role": "tool", "name": "weather", "tool_call_id": f"call0000{number}", "content": f"result{number}"}


SYSTEM = {"role": "system", "content": "told1"}
CASES = {
    "one turn": ChatCase((user("asked1"), assistant("wrote1"))),
    "two turns": ChatCase((user("asked1"), assistant("wrote1"), user("asked2"), assistant("wrote2"))),
    "a last question": ChatCase((user("asked1"), assistant("wrote1"), user("asked2"))),
    "system": ChatCase((SYSTEM, user("asked1"), assistant("wrote1"), user("asked2"), assistant("wrote2"))),
    "white space": ChatCase((user("asked1"), assistant("\n wrote1 \n"), user("asked2"), assistant("  wrote2"))),
    "thinking": ChatCase(
        (
            user("asked1"),
            assistant("wrote1", reasoning_content="wrote2"),
            user("asked2"),
            assistant("wrote3", reasoning_content="wrote4"),
        )
    ),
    "thinking in the content": ChatCase(
        (
            user("asked1"),
            assistant("<think>\nwrote1\n</think>\n\nwrote2"),
            user("asked2"),
            assistant("<think>\nwrote3\n</think>\n\nwrote4"),
        )
    ),
    "tools that are not used": ChatCase((SYSTEM, user("asked1"), assistant("wrote1")), (WEATHER,)),
    "tool call without content": ChatCase(
        (user("asked1"), assistant(None, tool_calls=[call({"city": "wrote1"})]), result(), assistant("wrote2")),
        (WEATHER,),
    ),
    "tool call with content": ChatCase(
        (user("asked1"), assistant("wrote1", tool_calls=[call({"city": "wrote2"})]), result(), assistant("wrote3")),
        (WEATHER,),
    ),
    "tool call as text": ChatCase(
        (user("asked1"), assistant(None, tool_calls=[call('{"city": "wrote1"}')]), result(), assistant("wrote2")),
        (WEATHER,),
    ),
    "tool call with thinking": ChatCase(
        (
            SYSTEM,
            user("asked1"),
            assistant("", reasoning_content="wrote1", tool_calls=[call({"city": "wrote2"})]),
            result(),
            assistant("", reasoning_content="wrote3", tool_calls=[call({"city": "wrote4"}, 2)]),
            result(2),
            assistant("wrote5"),
            user("asked2"),
            assistant("wrote6"),
        ),
        (WEATHER,),
    ),
}


def without_nulls(messages: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """As the corpus readers give them."""
    return tuple({key: value for key, value in message.items() if value is not None} for message in messages)
