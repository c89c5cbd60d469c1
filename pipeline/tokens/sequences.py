"""Documents to sequences: token ids, and which of them carry a target.

The teacher reads and the lake stores the ids made here: nothing is decoded and encoded again.

Arrays carry a shape suffix: L tokens of a document, n tokens of one sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from logitlake.pipeline.corpus.document import Chat, Document, Pair, Reject, RejectReason, Trace
from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.pipeline.tokens.chat_template import RenderedChat, UnusableChatError
from logitlake.pipeline.tokens.chat_turns import chat_views, whole_text
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError, SettingsError

Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class TokenSequence:
    """One window of a document.

    `input_ids` int32 [n]; `has_target` bool [n]: whether token i+1 is a label that belongs to this window, the last
    entry always False. `start` is the offset of the first token in the document; where a chat gives several texts, they
    count as one after the other.
    """

    doc_id: str
    window: int
    start: int
    input_ids: Int32Array
    has_target: BoolArray


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedDocument:
    """A document with its sequences, in order; `n_tokens` counts what the teacher reads, overlaps included."""

    document: Document
    sequences: tuple[TokenSequence, ...]
    n_tokens: int


# Ids of a whole text, and which of them are labels.
_Labelled = tuple[Int32Array, BoolArray]
# The texts of a document: one, but for chats whose template shows earlier turns otherwise than the model saw them.
_LabelledTexts = list[_Labelled]


def tokenize_documents(
    documents: Sequence[Document], tokenizer: TextTokenizer, settings: TokenizationSettings
) -> list[TokenizedDocument | Reject]:
    """The sequences of each document, or a reject with the reason; in the order of `documents`.

    Labels are all tokens of a text, the completion's tokens of a pair or a trace, and the assistant's tokens of a chat
    (all tokens if `chat_targets` is `all`). Windows without a target are left out. The result for one document does not
    depend on the others. Raises MismatchError for a chat without a usable template and a trace of another tokenizer,
    SettingsError if the settings ask for a BOS
    or EOS that the tokenizer does not have.
    """
    labelled: list[_LabelledTexts | Reject | None] = [None] * len(documents)
    kinds = ((str, _encode_texts), (Pair, _encode_pairs), (Chat, _encode_chats), (Trace, _encode_traces))
    for kind, encode in kinds:
        indices = [i for i, document in enumerate(documents) if isinstance(document.content, kind)]
        if indices:
            encoded = encode([documents[i] for i in indices], tokenizer, settings)
            for index, result in zip(indices, encoded, strict=True):
                labelled[index] = result
    return [_cut(document, result, settings) for document, result in zip(documents, labelled, strict=True) if result]


def _encode_texts(
    documents: Sequence[Document], tokenizer: TextTokenizer, settings: TokenizationSettings
) -> list[_LabelledTexts | Reject]:
    texts = [document.content for document in documents if isinstance(document.content, str)]
    return [[_labelled(ids, 0, tokenizer, settings, add_eos=settings.eos)] for ids in tokenizer.encode_texts(texts)]


def _encode_pairs(
    documents: Sequence[Document], tokenizer: TextTokenizer, settings: TokenizationSettings
) -> list[_LabelledTexts | Reject]:
    """The ids begin with those of the prompt alone, because a student is given the prompt alone.

    Prompt and completion are encoded in one piece if the result begins with those ids. If a token crosses the border,
    the completion is encoded on its own.
    """
    pairs = [document.content for document in documents if isinstance(document.content, Pair)]
    prompts = tokenizer.encode_texts([pair.prompt for pair in pairs])
    wholes = tokenizer.encode_texts([pair.prompt + pair.completion for pair in pairs])
    results: list[_LabelledTexts | Reject] = []
    for pair, prompt, whole in zip(pairs, prompts, wholes, strict=True):
        ids = whole
        if whole[: len(prompt)] != prompt:
            ids = prompt + tokenizer.encode_continuation(pair.completion)
        results.append([_labelled(ids, len(prompt), tokenizer, settings, add_eos=settings.eos)])
    return results


def _encode_chats(
    documents: Sequence[Document], tokenizer: TextTokenizer, settings: TokenizationSettings
) -> list[_LabelledTexts | Reject]:
    """The template writes all special tokens of a chat: no EOS is added, and a BOS only with `bos: always`."""
    template = tokenizer.require_chat_template()
    special_ids = sorted(tokenizer.special_ids())
    results: list[_LabelledTexts | Reject] = []
    for document in documents:
        chat = document.content
        assert isinstance(chat, Chat)
        try:
            if settings.chat_targets == "all":
                views = [RenderedChat(whole_text(template, chat.messages, chat.tools), ())]
            else:
                views = chat_views(template, chat.messages, chat.tools)
        except UnusableChatError as error:
            results.append(_reject(document, RejectReason.BAD_CHAT, f"the chat template refuses the chat: {error}"))
            continue
        results.append([_encode_view(view, tokenizer, special_ids, settings) for view in views])
    return results


def _encode_traces(
    documents: Sequence[Document], tokenizer: TextTokenizer, settings: TokenizationSettings
) -> list[_LabelledTexts | Reject]:
    """The ids as they were written. Raises MismatchError if they are those of another tokenizer."""
    results: list[_LabelledTexts | Reject] = []
    for document in documents:
        trace = document.content
        assert isinstance(trace, Trace)
        if trace.tokenizer_id != tokenizer.fingerprint:
            raise MismatchError(
                f"trace {document.doc_id}: expected ids of the teacher's tokenizer {tokenizer.fingerprint}, found "
                f"those of {trace.tokenizer_id}, which its writer {trace.writer} used; choose other traces by the "
                f"corpus' `where`, such as tokenizer_id = '{tokenizer.fingerprint}'"
            )
        ids_L = np.array([*trace.prompt_ids, *trace.completion_ids], np.int32)
        results.append([(ids_L, np.arange(len(ids_L)) >= max(len(trace.prompt_ids), 1))])
    return results


def prompt_ids(text: str, tokenizer: TextTokenizer, settings: TokenizationSettings, *, is_chat: bool) -> list[int]:
    """Ids of a text that a model goes on with, as capture would begin it: a BOS as the settings ask, and no EOS."""
    add_bos = settings.bos == "always" if is_chat else None
    (ids,) = tokenizer.encode_texts([text])
    ids_L, _ = _labelled(ids, 0, tokenizer, settings, add_eos=False, add_bos=add_bos)
    return [int(token_id) for token_id in ids_L]


def _encode_view(
    view: RenderedChat, tokenizer: TextTokenizer, special_ids: list[int], settings: TokenizationSettings
) -> _Labelled:
    encoding = tokenizer.encode_with_offsets([view.text])[0]
    add_bos = settings.bos == "always"
    ids_L, is_label_L = _labelled(encoding.ids, 0, tokenizer, settings, add_eos=False, add_bos=add_bos)
    if settings.chat_targets != "all":
        n_added = len(ids_L) - len(encoding.ids)
        is_label_L[:n_added] = False
        offsets_L2 = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        is_label_L[n_added:] &= _touching(offsets_L2, np.isin(encoding.ids, special_ids), view.assistant_spans)
    return ids_L, is_label_L


def _labelled(
    ids: list[int],
    first_label: int,
    tokenizer: TextTokenizer,
    settings: TokenizationSettings,
    *,
    add_eos: bool,
    add_bos: bool | None = None,
) -> _Labelled:
    """Ids with at most one BOS and one EOS as the settings ask, and labels from index `first_label` on."""
    if add_bos is None:
        add_bos = tokenizer.adds_bos if settings.bos == "auto" else settings.bos == "always"
    before = [_required(tokenizer.bos_id, "bos")] if add_bos else []
    if before == ids[:1]:
        before = []
    after = [_required(tokenizer.eos_id, "eos")] if add_eos else []
    if after == ids[-1:] and len(ids) > first_label:
        after = []
    ids_L = np.array([*before, *ids, *after], dtype=np.int32)
    is_label_L = np.arange(len(ids_L)) >= max(first_label + len(before), 1)
    return ids_L, is_label_L


def _required(token_id: int | None, name: str) -> int:
    if token_id is None:
        off = "tokenization.eos to false" if name == "eos" else "tokenization.bos to never"
        raise SettingsError(f"tokenization.{name} asks for a token that the tokenizer does not have; set {off}")
    return token_id


def _touching(
    offsets_L2: npt.NDArray[np.int64], is_special_L: BoolArray, spans: Sequence[tuple[int, int]]
) -> BoolArray:
    """Which tokens hold a character of one of the spans, as in transformers' own mask of the assistant's tokens.

    Some tokenizers cut white space off a token's characters: a token without any counts as the character before. A
    special token before a span may take in the white space behind it: such a token is the template's.
    """
    begins_L, ends_L = offsets_L2[:, 0], offsets_L2[:, 1]
    begins_L = np.minimum(begins_L, ends_L - 1)
    touching_L = np.zeros(len(offsets_L2), dtype=np.bool_)
    for start, end in spans:
        touching_L |= (begins_L < end) & (ends_L > start) & ~((begins_L < start) & is_special_L)
    return touching_L


def _cut(
    document: Document, labelled: _LabelledTexts | Reject, settings: TokenizationSettings
) -> TokenizedDocument | Reject:
    """The windows of a document that carry a target. Windows of a later text are numbered on, and start behind it."""
    if isinstance(labelled, Reject):
        return labelled
    n_tokens = max(len(ids_L) for ids_L, _ in labelled)
    if n_tokens < settings.min_tokens:
        return _reject(document, RejectReason.TOO_SHORT, f"{n_tokens} tokens, min_tokens is {settings.min_tokens}")
    sequences: list[TokenSequence] = []
    offset, number = 0, 0
    for ids_L, is_label_L in labelled:
        for start, end, first_label in windows(len(ids_L), settings.window, settings.overlap):
            has_target_n = np.zeros(end - start, dtype=np.bool_)
            has_target_n[first_label - start - 1 : -1] = is_label_L[first_label:end]
            if has_target_n.any():
                ids_n = ids_L[start:end]
                sequences.append(TokenSequence(document.doc_id, number, offset + start, ids_n, has_target_n))
            number += 1
        offset += len(ids_L)
    if not sequences:
        return _reject(
            document, RejectReason.NO_TARGET, "no token is a label: the assistant wrote nothing, or the text is empty"
        )
    return TokenizedDocument(document, tuple(sequences), sum(len(sequence.input_ids) for sequence in sequences))


def _reject(document: Document, reason: RejectReason, detail: str) -> Reject:
    return Reject(document.corpus, document.source, document.line, reason, detail)


class Window(NamedTuple):
    """Tokens [start, end) of the document; its own labels are the tokens [first_label, end)."""

    start: int
    end: int
    first_label: int


def windows(n_tokens: int, length: int, overlap: int) -> list[Window]:
    """Windows that start every `length - overlap` tokens, until one reaches the end of the document.

    A label belongs to the first window that contains it; later windows hold it as context only. Windows share at least
    one token, even if `overlap` is 0, because a window's first token can't be predicted. Each of the tokens
    1..n_tokens-1 is a label of exactly one window. Cost: O(number of windows).
    """
    stride = length - max(overlap, 1)
    result = [Window(0, min(length, n_tokens), 1)]
    while result[-1].end < n_tokens:
        start = result[-1].start + stride
        result.append(Window(start, min(start + length, n_tokens), result[-1].end))
    return result
