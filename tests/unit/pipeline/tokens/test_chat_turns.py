"""One small template for each way in which real ones differ; test_template_zoo.py has the real ones."""

import pytest

from logitlake.pipeline.tokens.chat_template import ChatTemplate, UnusableChatError
from logitlake.pipeline.tokens.chat_turns import chat_views, whole_text
from tests.unit.pipeline.tokens.chats import CASES, assistant, user, without_nulls

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TWO_TURNS = CASES["two turns"].messages
THINKING = CASES["thinking"].messages

HEADERS = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
PLAIN = HEADERS + PROMPT
THINKS = (
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if loop.last and m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].strip() }}<|end|>\n{% endfor %}" + PROMPT
)
THINKS_ALWAYS = HEADERS + "{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}"
EMPTY_THOUGHT = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}{% endif %}</think>"
    "{% endif %}{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)
OTHER_END = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% if loop.last and m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ENDS_WITH_EOS = HEADERS + "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
ENDS_IF_FOLLOWED = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if not loop.last %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NEVER_ENDS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}" + PROMPT.replace("\n", "")
NO_PROMPT = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }};\n{% endfor %}"
INSTRUCTIONS = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
GENERATION_THINKS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}"
    "{% if loop.last and m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|end|>{% endgeneration %}{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALLS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for call in m.tool_calls or [] %}<call>"
    "{% for key, value in call.function.arguments.items() %}{{ key }}={{ value }};{% endfor %}</call>{% endfor %}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def template(source: str, *more: str) -> ChatTemplate:
    tokens = ["<|end|>", "<|return|>", *more]
    return ChatTemplate(source, special_tokens=SPECIAL, control_tokens=tokens, origin="test")


def labels(source: str, messages, *tokens: str) -> list[list[str]]:
    """The labelled texts of each view."""
    views = chat_views(template(source, *tokens), without_nulls(tuple(messages)))
    return [[text[start:end] for start, end in spans] for text, spans in views]


@pytest.mark.parametrize(
    ("source", "messages", "expected"),
    [
        (PLAIN, TWO_TURNS, [["wrote1<|end|>", "wrote2<|end|>"]]),
        (
            THINKS,
            THINKING,
            [["<think>\nwrote2\n</think>\n\nwrote1<|end|>"], ["<think>\nwrote4\n</think>\n\nwrote3<|end|>"]],
        ),
        (THINKS, TWO_TURNS, [["wrote1<|end|>", "wrote2<|end|>"]]),
        (THINKS_ALWAYS, TWO_TURNS, [["wrote1<|end|>", "wrote2<|end|>"]]),
        (EMPTY_THOUGHT, TWO_TURNS, [["wrote1<|end|>", "wrote2<|end|>"]]),
        (EMPTY_THOUGHT, THINKING, [["wrote2</think>wrote1<|end|>", "wrote4</think>wrote3<|end|>"]]),
        (OTHER_END, TWO_TURNS, [["wrote1<|return|>"], ["wrote2<|return|>"]]),
        (ENDS_WITH_EOS, TWO_TURNS, [["wrote1<|end|>", "wrote2<|end|>"]]),
        (ENDS_IF_FOLLOWED, TWO_TURNS, [["wrote1<|end|>", "wrote2"]]),
        (NEVER_ENDS, TWO_TURNS, [["wrote1", "wrote2"]]),
        (NO_PROMPT, TWO_TURNS, [["wrote1;", "wrote2;"]]),
        (INSTRUCTIONS, TWO_TURNS, [[" wrote1</s>", " wrote2</s>"]]),
        (GENERATION_THINKS, TWO_TURNS, [["wrote1<|end|>", "wrote2<|end|>"]]),
        (
            GENERATION_THINKS,
            THINKING,
            [["<think>wrote2</think>wrote1<|end|>"], ["<think>wrote4</think>wrote3<|end|>"]],
        ),
    ],
)
def test_labels_are_what_the_assistant_wrote_and_the_token_that_ends_its_turn(source, messages, expected):
    assert labels(source, messages) == expected


def test_a_special_token_of_the_next_header_ends_a_turn_that_has_no_other_end():
    assert labels(NEVER_ENDS, TWO_TURNS, "<|user|>") == [["wrote1<|user|>", "wrote2"]]


def test_each_view_is_the_text_of_the_chat_up_to_its_last_turn():
    first, second = chat_views(template(THINKS), THINKING)
    assert first.text == whole_text(template(THINKS), THINKING[:2])
    assert second.text == whole_text(template(THINKS), THINKING)


def test_context_behind_the_last_turn_stays():
    [view] = chat_views(template(PLAIN), CASES["a last question"].messages)
    assert view.text.endswith("asked2<|end|>\n")


def test_the_assistants_own_white_space_stays_where_nothing_closes_the_turn():
    assert labels(NEVER_ENDS, [user("asked1"), assistant("wrote1\n")]) == [["wrote1\n"]]
    assert labels(PLAIN, [user("asked1"), assistant("wrote1\n")]) == [["wrote1\n<|end|>"]]


@pytest.mark.parametrize("case", ["tool call without content", "tool call as text"])
def test_a_tool_call_is_labelled_whatever_form_its_content_and_arguments_have(case):
    assert labels(CALLS, CASES[case].messages) == [["<call>city=wrote1;</call><|end|>", "wrote2<|end|>"]]
    needs_content = CALLS.replace("{{ m.content }}", "{{ m.content.strip() }}")
    assert labels(needs_content, CASES[case].messages) == [["<call>city=wrote1;</call><|end|>", "wrote2<|end|>"]]


def test_a_null_that_a_template_would_print_is_not_what_the_assistant_wrote():
    shown = "{% if m['content'] is string %}{{ m.content }}{% else %}{{ m['content'] | tojson }}{% endif %}"
    expected = [["<call>city=wrote1;</call><|end|>", "wrote2<|end|>"]]
    assert labels(CALLS.replace("{{ m.content }}", shown), CASES["tool call without content"].messages) == expected


@pytest.mark.parametrize("source", [PLAIN, NO_PROMPT, ENDS_WITH_EOS])
def test_a_chat_may_begin_with_the_assistant(source):
    [[first, second]] = labels(source, TWO_TURNS[1:])
    assert (first[:6], second[:6]) == ("wrote1", "wrote2")


def test_a_turn_whose_beginning_can_not_be_told_is_refused():
    counting = "{{ messages | tojson | length }}" + NEVER_ENDS
    with pytest.raises(UnusableChatError, match="beginning is unknown"):
        labels(counting, TWO_TURNS)
