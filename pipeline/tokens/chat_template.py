"""Chat templates: messages to text, by the rules of transformers, without importing it.

Templates come with models and are untrusted: they render in Jinja's immutable sandbox. Unlike in transformers, the
clock stands still, so that the same chat gives the same text on any day: templates that check for `strftime_now` do
not find it and use their fixed date, and a template that requires it reads `FIXED_DATE`.
"""

import datetime
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from logitlake.storage.errors import MismatchError
from logitlake.storage.identity import digest

FIXED_DATE = datetime.datetime(2025, 1, 1)

# Marks around the text between {% generation %} and {% endgeneration %}. U+FDD0 is no character of any text.
_GENERATION_START = "\ufdd0generation\ufdd0"
_GENERATION_END = "\ufdd0endgeneration\ufdd0"
_TRACKS_GENERATION = "endgeneration"

_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None


class UnusableChatError(Exception):
    """The template refuses this chat, such as two turns of one role in a row; the message is the template's."""


class RenderedChat(NamedTuple):
    """A chat as text, and character spans [start, end) of the assistant's text in it."""

    text: str
    assistant_spans: tuple[tuple[int, int], ...]


class ChatTemplate:
    """One Jinja template with the tokenizer's tokens; `origin` names it in errors.

    `special_tokens` are those that a template may name, such as `bos_token`; `control_tokens` are the texts of all
    tokens that the vocabulary marks as special, such as the end of a turn.
    """

    def __init__(
        self, source: str, *, special_tokens: Mapping[str, str], control_tokens: Iterable[str] = (), origin: str
    ) -> None:
        self.source = source
        self.origin = origin
        self.template_hash = digest(b"chat template", source.encode())
        self.control_tokens = tuple({*special_tokens.values(), *control_tokens} - {""})
        self.tracks_generation = _TRACKS_GENERATION in source
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise MismatchError(
                f"chat template {origin}: not valid Jinja ({error}); correct it, or set another by "
                f"tokenization.chat_template"
            ) from None

    def render_text(self, messages: Messages, tools: Tools = None, **variables: Any) -> str:
        """The chat as text. Raises UnusableChatError if the template refuses it."""
        return self.render(messages, tools, **variables).text

    def render(self, messages: Messages, tools: Tools = None, **variables: Any) -> RenderedChat:
        """The chat as text, with the spans of {% generation %}, of which most templates have none.

        `variables` are more of the template's own, such as `add_generation_prompt`. Raises UnusableChatError if the
        template refuses the chat.
        """
        context = {
            **self._special_tokens,
            "messages": [_with_reasoning_names(message) for message in messages],
            "tools": list(tools) if tools else None,
            "documents": None,
            "add_generation_prompt": False,
            **variables,
        }
        try:
            return _take_out_marks(self._template.render(context))
        except jinja2.UndefinedError as error:
            if "strftime_now" in str(error) and "strftime_now" not in variables:
                return self.render(messages, tools, strftime_now=FIXED_DATE.strftime, **variables)
            raise UnusableChatError(str(error)) from None
        except Exception as error:  # a template is foreign code
            raise UnusableChatError(f"{type(error).__name__}: {error}") from None


def _with_reasoning_names(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its reasoning under the names that templates read, as transformers gives it."""
    reasoning = next((message[name] for name in _REASONING_NAMES if message.get(name) is not None), None)
    if reasoning is None:
        return dict(message)
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _take_out_marks(marked: str) -> RenderedChat:
    text, spans = "", []
    for number, piece in enumerate(marked.split(_GENERATION_START)):
        written, _, rest = piece.partition(_GENERATION_END) if number else ("", "", piece)
        if number:
            spans.append((len(text), len(text) + len(written)))
        text += written + rest
    return RenderedChat(text, tuple(spans))


class _GenerationMarks(jinja2.ext.Extension):
    """The tag {% generation %} of transformers' templates: writes marks around its body."""

    tags: set[str] = {"generation"}  # noqa: RUF012 (Jinja's own interface)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return _GENERATION_START + caller() + _GENERATION_END


def _environment() -> jinja2.Environment:
    """The environment of transformers for chat templates, without the clock."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationMarks, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter would escape HTML characters."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
