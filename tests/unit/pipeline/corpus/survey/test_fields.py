"""What a sample of records tells of its fields."""

import json
from typing import Any

import pytest

from logitlake.pipeline.corpus.survey.fields import fields_in

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
TOOL = [{"type": "function", "function": {"name": "f"}}]
PROSE = "some words of prose"


@pytest.mark.parametrize(
    ("record", "settings"),
    [
        ({"text": PROSE}, {}),
        ({"id": "a1", "content": PROSE, "url": "http://x"}, {"text_field": "content"}),
        ({"id": "a b", "ein Feld": PROSE * 3, "url": "http://x/long/long/long/long/long/long/long"}, "ein Feld"),
        ({"messages": CHAT}, {"messages_field": "messages"}),
        ({"text": PROSE, "conversations": SHAREGPT}, {"messages_field": "conversations"}),
        ({"verlauf": json.dumps(CHAT)}, {"messages_field": "verlauf"}),
        ({"messages": [list(message.items()) for message in CHAT]}, {"messages_field": "messages"}),
        ({"messages": CHAT, "tools": TOOL}, {"messages_field": "messages"}),
        ({"messages": CHAT, "tools": "a hammer"}, {"messages_field": "messages", "tools_field": None}),
        ({"messages": CHAT, "functions": TOOL}, {"messages_field": "messages", "tools_field": "functions"}),
        ({"prompt": CHAT[:1], "chosen": CHAT, "rejected": CHAT}, {"messages_field": "chosen"}),
        ({"question": "why?", "answer": "so"}, {"prompt_field": "question", "completion_field": "answer"}),
        (
            {"instruction": "do", "input": "", "output": "done"},
            {"prompt_field": "instruction", "completion_field": "output"},
        ),
    ],
)
def test_the_fields_of_a_document_are_found(record: dict[str, Any], settings: Any) -> None:
    fields = fields_in([record] * 5)
    assert fields is not None
    assert dict(fields.settings) == ({"text_field": settings} if isinstance(settings, str) else settings)
    read = {*dict(fields.settings).values()} | {"text", "tools"}
    assert set(fields.others) >= set(record) - read


@pytest.mark.parametrize(
    "record", [{"id": "one", "n": 3}, {"messages": CHAT[:1]}, {"text": None}, {"text": "  "}, {"messages": []}]
)
def test_records_without_a_document_have_no_fields(record: dict[str, Any]) -> None:
    assert fields_in([record] * 5) is None
    assert fields_in([]) is None


def test_a_few_bad_records_change_nothing_and_many_do() -> None:
    fields = fields_in([{"messages": CHAT}] * 8 + [{"messages": "?"}, {}])
    assert fields is not None and fields.shape == "chats"
    assert fields_in([{"messages": CHAT}] * 5 + [{"messages": "?"}] * 5) is None
