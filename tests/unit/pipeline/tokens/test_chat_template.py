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


@pytest.mark.parametrize("source", [TURNS, GENERATION])
def test_spans_are_the_assistants_words_and_the_token_that_ends_its_turn(source):
    text, spans = template(source).render(CHAT)
    assert [text[start:end] for start, end in spans] == ["three</s>", "five</s>"]


def test_template_that_rewrites_earlier_turns_is_refused_by_name():
    source = "{% for m in messages %}{% if not loop.last and m.role == 'assistant' %}(cut){% else %}{{ m.content }}"
    source += "{% endif %};{% endfor %}"
    with pytest.raises(MismatchError, match=r"chat template test: the first 2 messages .* no prefix"):
        template(source).render(CHAT)
    assert template(source).render_text(CHAT) == "one & <two>;(cut);four;five;"


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
    with pytest.raises(MismatchError, match="reads the clock"):
        template("{{ strftime_now('%Y') }}").render_text(CHAT)


def test_rendering_leaves_the_messages_as_they_were(tmp_path: Path):
    before = [dict(message) for message in CHAT]
    template(TURNS).render(CHAT)
    assert before == CHAT


def test_a_chat_may_begin_with_the_assistant():
    text, spans = template(TURNS).render(CHAT[1:])
    assert [text[start:end] for start, end in spans] == ["three</s>", "five</s>"]


def test_a_chat_that_begins_with_the_assistant_is_refused_where_its_header_is_not_known():
    source = "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    with pytest.raises(UnusableChatError, match="begins with the assistant"):
        template(source).render(CHAT[1:])
