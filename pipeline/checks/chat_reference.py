"""A chat as `apply_chat_template` of transformers shows it, up to each of its messages.

The reference is transformers with two differences: its clock stands still (templates may print the date), and the
messages may have another form of absent content and of tool arguments, because some templates take only one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from transformers.utils.chat_template_utils import render_jinja_template

from logitlake.pipeline.corpus.document import Chat
from logitlake.pipeline.tokens.chat_template import FIXED_DATE, ChatTemplate, Messages
from logitlake.pipeline.tokens.message_forms import message_forms

_OPEN_TAG = re.compile(r"[<\[][^<>\[\]\s]*$")
_THOUGHT = re.compile(r"<[^<>]*think[^<>]*>\s*$", re.IGNORECASE)
_CLOCK = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


class ShownChat(NamedTuple):
    """The text of the first `n_messages` messages in one of their forms."""

    text: str
    messages: Messages
    n_messages: int


class ChatReference:
    """What transformers makes of one chat. `tokenizer` is of transformers, `template` the one in effect."""

    def __init__(self, tokenizer: Any, template: ChatTemplate, chat: Chat) -> None:
        self.tokenizer = tokenizer
        self.tracks_generation = template.tracks_generation
        self._template = template.source
        self._chat = chat
        self._texts: dict[tuple[int, int, tuple[Any, ...]], str | None] = {}
        self._forms = [list(form) for form in message_forms(chat.messages)]

    def shown(self) -> Iterator[ShownChat]:
        """The texts of the whole chat and of the chat up to each turn of the assistant, in each form of its messages.

        What the template refuses is left out.
        """
        for form in self._forms:
            turns = [number + 1 for number, message in enumerate(form) if message.get("role") == "assistant"]
            for n_messages in dict.fromkeys([len(form), *turns]):
                text = self.text(form, n_messages)
                if text is not None:
                    yield ShownChat(text, form, n_messages)

    def text(self, messages: Messages, n_messages: int, **variables: Any) -> str | None:
        """The first messages as text; None if the template refuses them. `variables` are more of the template's own."""
        key = (self._forms.index(list(messages)), n_messages, tuple(sorted(variables.items())))
        if key not in self._texts:
            self._texts[key] = self._rendered(list(messages)[:n_messages], variables)
        return self._texts[key]

    def start_of_turn(self, messages: Messages, number: int) -> tuple[int, int]:
        """Where what the assistant writes in message `number` begins in the chat that ends with it, at the earliest and
        at the latest.

        Behind what that chat shares with the generation prompt, or with the prompts for thinking and for none: some
        templates show a turn behind another of them. If the template marks what is to be learned, that may begin with
        the header of the turn.
        """
        own = self.text(messages, number + 1) or ""
        before = _end_of_prompt(own, self.text(messages, number) or "")
        switches: list[dict[str, Any]] = [{}, *({"enable_thinking": on, "thinking": on} for on in (True, False))]
        prompts = [self.text(messages, number, add_generation_prompt=True, **switch) for switch in switches]
        starts = [max(before, _end_of_prompt(own, prompt)) for prompt in prompts if prompt is not None] or [before]
        return before if self.tracks_generation else min(starts), max(starts)

    def special_tokens(self) -> set[str]:
        """The texts of all tokens that are marked as special."""
        added = self.tokenizer.added_tokens_decoder.values()
        return {*self.tokenizer.all_special_tokens, *(str(token.content) for token in added if token.special)}

    def ids(self, text: str) -> list[int]:
        """The ids of a rendered text, as `apply_chat_template` computes them."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _rendered(self, messages: Sequence[Any], variables: Mapping[str, Any]) -> str | None:
        if not messages:
            return None
        for template in _without_clock(self._template):
            try:
                return self._apply(messages, template, variables)
            except Exception:  # a template is foreign code
                continue
        return None

    def _apply(self, messages: Sequence[Any], template: str, variables: Mapping[str, Any]) -> str:
        chat, tools = [dict(message) for message in messages], [dict(tool) for tool in self._chat.tools] or None
        if any(value is None for message in chat for value in message.values()):
            # apply_chat_template takes null values out, and some templates want `content: null`.
            special = self.tokenizer.special_tokens_map
            [text], _ = render_jinja_template([chat], tools, chat_template=template, **special, **variables)
        else:
            text = self.tokenizer.apply_chat_template(
                chat, tools=tools, chat_template=template, tokenize=False, **variables
            )
        return str(text)


def shared_length(first: str, second: str) -> int:
    """How many characters two texts begin with together."""
    shorter = min(len(first), len(second))
    return next((index for index in range(shorter) if first[index] != second[index]), shorter)


def _end_of_prompt(own: str, prompt: str) -> int:
    """The characters of a generation prompt that a chat shows: all, or those before an open tag or a thought."""
    if own.startswith(prompt):
        return len(prompt)
    shared = own[: shared_length(own, prompt)]
    return len(_THOUGHT.sub("", _OPEN_TAG.sub("", shared)))


def _without_clock(template: str) -> tuple[str, ...]:
    """The template with a clock that is not defined, and one with a fixed date; itself if it asks for no clock."""
    if "strftime_now" not in template:
        return (template,)
    fixed = _CLOCK.sub(lambda call: repr(FIXED_DATE.strftime(call[2])), template)
    return (template.replace("strftime_now", "undefined_clock"), fixed)
