"""Chat templates: messages to text, by the rules of transformers, without importing it.

Templates come with models and are untrusted: they render in Jinja's immutable sandbox. Unlike in transformers,
`strftime_now` is not defined, so that the same chat gives the same text on any day: templates that check for it use
their fixed date, and a template that requires it is refused.
"""

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

# Marks around the text between {% generation %} and {% endgeneration %}. U+FDD0 is no character of any text.
_GENERATION_START = "\ufdd0generation\ufdd0"
_GENERATION_END = "\ufdd0endgeneration\ufdd0"
_TRACKS_GENERATION = "endgeneration"


class UnusableChatError(Exception):
    """The template refuses this chat, such as two turns of one role in a row; the message is the template's."""


class RenderedChat(NamedTuple):
    """A chat as text, and the character spans [start, end) of the assistant's text."""

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
        self._special_tokens = dict(special_tokens)
        self._control_tokens = tuple({*special_tokens.values(), *control_tokens} - {""})
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise MismatchError(
                f"chat template {origin}: not valid Jinja ({error}); correct it, or set another by "
                f"tokenization.chat_template"
            ) from None

    def render(self, messages: Sequence[Mapping[str, Any]]) -> RenderedChat:
        """The chat as text, with the spans of every assistant turn.

        A template with {% generation %} marks the spans. For other templates, rendering the chat up to each turn gives
        them: that text must be a prefix of the whole, else MismatchError. Raises UnusableChatError if the template
        refuses the chat.
        """
        if _TRACKS_GENERATION in self.source:
            return _take_out_marks(self._render(messages))
        text = self._render(messages)
        spans = []
        for turn, message in enumerate(messages):
            if message["role"] == "assistant":
                start = (
                    self._prefix_length(text, messages[:turn], add_generation_prompt=True)
                    if turn
                    else self._after_first_header(text)
                )
                end = len(text)
                if turn + 1 < len(messages):
                    end = self._prefix_length(text, messages[: turn + 1], add_generation_prompt=False)
                spans.append((start, self._end_of_turn(text, start, end)))
        return RenderedChat(text, tuple(spans))

    def render_text(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The chat as text. Raises UnusableChatError if the template refuses it."""
        return _take_out_marks(self._render(messages)).text

    def _render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False) -> str:
        try:
            return self._template.render(
                **self._special_tokens,
                messages=list(messages),
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
            )
        except jinja2.UndefinedError as error:
            if "strftime_now" in str(error):
                raise MismatchError(
                    f"chat template {self.origin}: it reads the clock (strftime_now), so the text of a chat would "
                    f"change every day; copy it with a fixed date and set tokenization.chat_template to the copy"
                ) from None
            raise UnusableChatError(str(error)) from None
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            raise UnusableChatError(f"{type(error).__name__}: {error}") from None

    def _prefix_length(self, text: str, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> int:
        prefix = self._render(messages, add_generation_prompt=add_generation_prompt) if messages else ""
        if text.startswith(prefix):
            return len(prefix)
        same = next(i for i, pair in enumerate(zip(prefix, text + "\0", strict=False)) if pair[0] != pair[1])
        raise MismatchError(
            f"chat template {self.origin}: the first {len(messages)} messages rendered alone are no prefix of the "
            f"whole chat (alone {prefix[same : same + 40]!r}, in the whole {text[same : same + 40]!r}), so what the "
            f"assistant wrote can't be told from the rest; use a template that marks it with {{% generation %}} by "
            f"tokenization.chat_template, or set tokenization.chat_targets to all"
        )

    def _after_first_header(self, text: str) -> int:
        """Start of the assistant's text in a chat that begins with the assistant.

        No earlier turn can be rendered, so its header is the generation prompt after a user's turn.
        """
        asked = [{"role": "user", "content": "?"}]
        before, prompted = (self._render(asked, add_generation_prompt=add) for add in (False, True))
        header = prompted.removeprefix(before)
        if not header or header == prompted or header not in text:
            raise UnusableChatError(
                "the chat begins with the assistant, and the end of the template's header before its text is unknown"
            )
        return text.index(header) + len(header)

    def _end_of_turn(self, text: str, start: int, end: int) -> int:
        """The end of the assistant's text: white space after the token that closes a turn is the template's."""
        written = text[start:end].rstrip()
        return start + len(written) if written.endswith(self._control_tokens) else end


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
