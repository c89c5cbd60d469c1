"""A chat as `apply_chat_template` of transformers shows it, up to each of its messages.

The reference is transformers with two differences: its clock stands still (templates may print the date), and the
messages may have another form of absent content and of tool arguments, because some templates take only one.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from logitlake.pipeline.corpus.document import Chat
from logitlake.pipeline.tokens.chat_template import FIXED_DATE, ChatTemplate, Messages
from logitlake.pipeline.tokens.message_forms import message_forms

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
        self._texts: dict[tuple[int, int, bool], str | None] = {}
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

    def text(self, messages: Messages, n_messages: int, *, asked: bool = False) -> str | None:
        """The first messages as text, with the generation prompt if `asked`; None if the template refuses them."""
        key = (self._forms.index(list(messages)), n_messages, asked)
        if key not in self._texts:
            self._texts[key] = self._rendered(list(messages)[:n_messages], asked)
        return self._texts[key]

    def ids(self, text: str) -> list[int]:
        """The ids of a rendered text, as `apply_chat_template` computes them."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _rendered(self, messages: Sequence[Any], asked: bool) -> str | None:
        if not messages:
            return None
        for template in _without_clock(self._template):
            try:
                text: str = self.tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=[dict(tool) for tool in self._chat.tools] or None,
                    chat_template=template,
                    add_generation_prompt=asked,
                    tokenize=False,
                )
            except Exception:  # a template is foreign code
                continue
            return text
        return None


def _without_clock(template: str) -> tuple[str, ...]:
    """The template with a clock that is not defined, and one with a fixed date; itself if it asks for no clock."""
    if "strftime_now" not in template:
        return (template,)
    fixed = _CLOCK.sub(lambda call: repr(FIXED_DATE.strftime(call[2])), template)
    return (template.replace("strftime_now", "undefined_clock"), fixed)
