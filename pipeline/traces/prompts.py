"""Documents to prompts: what a model is given, and the reference that a verifier compares with.

A text is a prompt as it is. Of a pair, the prompt; the completion is the reference. Of a chat, everything before its
last answer, which is the reference; the template's generation prompt is behind it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from logitlake.pipeline.corpus.document import Chat, Document, Pair, Reject, RejectReason
from logitlake.pipeline.corpus.messages import texts
from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.pipeline.tokens.chat_template import ChatTemplate, UnusableChatError
from logitlake.pipeline.tokens.message_forms import message_forms
from logitlake.pipeline.tokens.sequences import prompt_ids
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.identity import digest, document_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt. `prompt_id` is the hash of its content without the reference, `doc_id` that of the whole record.

    `text` is what people read; `ids` are what the writer reads.
    """

    prompt_id: str
    doc_id: str
    text: str
    reference: str | None
    ids: tuple[int, ...]
    corpus: str
    source: str
    line: int | None

    @property
    def reference_id(self) -> str | None:
        """Hash of the reference; None if there is none. Another reference is another judgement."""
        if self.reference is None:
            return None
        return digest(b"reference", self.reference.encode("utf-8", errors="surrogatepass"))


def prompts_of(
    documents: Iterable[Document | Reject],
    tokenizer: TextTokenizer,
    settings: TokenizationSettings,
    *,
    max_tokens: int | None = None,
    on_reject: Callable[[Reject], None] = lambda reject: None,
) -> Iterator[Prompt | Reject]:
    """The prompt of each document, or a reject with the reason.

    `on_reject` is called with each document that can be read and makes no prompt, and may raise. Raises MismatchError
    for a chat without a template.
    """
    for document in documents:
        if isinstance(document, Reject):
            yield document
            continue
        outcome = _prompt(document, tokenizer, settings, max_tokens)
        if isinstance(outcome, Reject):
            on_reject(outcome)
        yield outcome


def _prompt(
    document: Document, tokenizer: TextTokenizer, settings: TokenizationSettings, max_tokens: int | None
) -> Prompt | Reject:
    content = document.content
    reference: str | None = None
    if isinstance(content, str):
        prompt_id, text = document_id(content), content
    elif isinstance(content, Pair):
        prompt_id, text, reference = document_id(content.prompt), content.prompt, content.completion
    elif isinstance(content, Chat):
        asked, reference = _before_last_answer(content)
        if not asked:
            return _reject(document, RejectReason.BAD_CHAT, "the chat has no message before its last answer")
        prompt_id = document_id({"messages": asked, "tools": content.tools} if content.tools else asked)
        try:
            text = _rendered(tokenizer.require_chat_template(), asked, content.tools)
        except UnusableChatError as error:
            return _reject(document, RejectReason.BAD_CHAT, f"the chat template refuses the chat: {error}")
    else:
        return _reject(document, RejectReason.WRONG_TYPE, "a trace is no prompt: name the corpus of its prompts")
    ids = prompt_ids(text, tokenizer, settings, is_chat=isinstance(content, Chat))
    if not ids:
        return _reject(document, RejectReason.EMPTY, "the prompt has no token")
    if max_tokens is not None and len(ids) > max_tokens:
        return _reject(document, RejectReason.TOO_LONG, f"{len(ids)} tokens, the writer reads at most {max_tokens}")
    return Prompt(
        prompt_id=prompt_id,
        doc_id=document.doc_id,
        text=text,
        reference=reference,
        ids=tuple(ids),
        corpus=document.corpus,
        source=document.source,
        line=document.line,
    )


def _before_last_answer(chat: Chat) -> tuple[tuple[dict[str, Any], ...], str | None]:
    """The messages before the assistant's last turn, and its text; None if a chat ends with a question."""
    messages = chat.messages
    end = len(messages)
    while end and messages[end - 1].get("role") == "assistant":
        end -= 1
    if end == len(messages):
        return messages, None
    return messages[:end], "".join(text for message in messages[end:] for text in texts(message.get("content")))


def _rendered(
    template: ChatTemplate, messages: tuple[dict[str, Any], ...], tools: tuple[Mapping[str, Any], ...]
) -> str:
    """The text up to where the assistant begins, in the first form of the messages that the template takes."""
    refusal: UnusableChatError | None = None
    for form in message_forms(messages):
        try:
            return template.render_text(form, tools, add_generation_prompt=True)
        except UnusableChatError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def _reject(document: Document, reason: RejectReason, detail: str) -> Reject:
    return Reject(document.corpus, document.source, document.line, reason, detail)
