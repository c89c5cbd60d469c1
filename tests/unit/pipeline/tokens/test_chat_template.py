from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from logitlake.pipeline.tokens.chat_template import ChatTemplate, UnusableChatError
from logitlake.storage.errors import MismatchError

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [
    {"role": "user", "content": "one & <two>"},
    {"role": "assistant", "content": "three"},
    {"role": "user", "content": "four"},
    {"role": "assistant", "content": "five"},
]
TURNS = """{{ bos_token }}
{%- for message in messages %}
    {{- '[' + message.role + ']\n' + message.content + eos_token + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"""
GENERATION = """{% for m in messages %}
    {% if m.role == 'assistant' %}
A:{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}

    {% else %}
U:{{ m.content | tojson }}
    {% endif %}
{% endfor %}"""
ODD = """{% macro turn(m) %}{{ m.content | trim | upper }}{% endmacro %}
{% for m in messages %}{% if loop.index == 3 %}{% continue %}{% endif %}{{ turn(m) }}
{% endfor %}{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}{{ dict(a=1) | tojson(indent=1) }}"""


def template(source):
    return ChatTemplate(source, special_tokens=SPECIAL, origin="test")


@pytest.mark.parametrize("source", [TURNS, GENERATION, ODD])
def test_a_chat_is_the_text_that_transformers_makes_of_it(source):
    rendered, _ = render_jinja_template([CHAT], chat_template=source, **SPECIAL)
    assert template(source).render_text(CHAT) == rendered[0]


def test_marked_spans_are_those_that_transformers_tracks():
    _, spans = render_jinja_template([CHAT], chat_template=GENERATION, return_assistant_tokens_mask=True, **SPECIAL)
    assert list(template(GENERATION).render(CHAT).assistant_spans) == [tuple(span) for span in spans[0]]


def test_template_that_is_not_jinja_is_refused_by_name():
    with pytest.raises(MismatchError, match="chat template test: not valid Jinja"):
        template("{% for %}")


def test_what_the_template_says_against_a_chat_is_passed_on():
    with pytest.raises(UnusableChatError, match="roles must alternate"):
        template("{{ raise_exception('roles must alternate') }}").render_text(CHAT)


def test_template_can_not_reach_out_of_its_sandbox():
    with pytest.raises(UnusableChatError):
        template("{{ messages.__class__.__mro__ }}{{ messages.__class__.__mro__[1].__subclasses__() }}").render_text(
            CHAT
        )
    with pytest.raises(UnusableChatError):
        template("{{ messages.append(1) }}").render_text(CHAT)


def test_a_chat_is_the_same_text_on_any_day():
    dated = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}26 Jul 2024{% endif %}"
    assert template(dated).render_text(CHAT) == "26 Jul 2024"
    assert template("{{ strftime_now('%d %b %Y') }}").render_text(CHAT) == "01 Jan 2025"


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_the_names_that_transformers_gives_it(name):
    chat = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two", name: "three"}]
    source = "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{{ m.content }}{% endfor %}"
    rendered, _ = render_jinja_template([chat], chat_template=source, **SPECIAL)
    assert template(source).render_text(chat) == rendered[0] == "onethreethreetwo"


def test_tools_are_given_to_the_template_and_no_tools_are_none():
    source = "{{ tools | tojson }}"
    assert template(source).render_text(CHAT, [{"name": "weather"}]) == '[{"name": "weather"}]'
    assert template(source).render_text(CHAT, []) == "null"


def test_rendering_leaves_the_messages_as_they_were(tmp_path: Path):
    before = [dict(message) for message in CHAT]
    template(TURNS).render(CHAT)
    assert before == CHAT
