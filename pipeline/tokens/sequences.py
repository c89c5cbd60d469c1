"""Documents to sequences: token ids, and which of them carry a target.

The teacher reads and the lake stores the ids made here: nothing is decoded and encoded again.

Arrays carry a shape suffix: L tokens of a document, n tokens of one sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from logitlake.pipeline.corpus.document import Chat, Document, Pair, Reject, RejectReason
from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.pipeline.tokens.chat_template import UnusableChatError
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import SettingsError

Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class TokenSequence:
    """One window of a document.

    `input_ids` int32 [n]; `has_target` bool [n]: whether token i+1 is a label that belongs to this window, the last
    entry always False. `start` is the offset of the first token in the document.
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


# Ids of the whole document, and which of them are labels.
_Labelled = tuple[Int32Array, BoolArray]


def tokenize_documents(
    documents: Sequence[Document], tokenizer: TextTokenizer, settings: TokenizationSettings
) -> list[TokenizedDocument | Reject]:
    """The sequences of each document, or a reject with the reason; in the order of `documents`.

    Labels are all tokens of a text, the completion's tokens of a pair, and the assistant's tokens of a chat (all tokens
    if `chat_targets` is `all`). Windows without a target are left out. The result for one document does not depend on
    the others. Raises MismatchError for a chat without a usable template, SettingsError if the settings ask for a BOS
    or EOS that the tokenizer does not have.
    """
    labelled: list[_Labelled | Reject | None] = [None] * len(documents)
    for kind, encode in ((str, _encode_texts), (Pair, _encode_pairs), (Chat, _encode_chats)):
        indices = [i for i, document in enumerate(documents) if isinstance(document.content, kind)]
        if indices:
            encoded = encode([documents[i] for i in indices], tokenizer, settings)
            for index, result in zip(indices, encoded, strict=True):
                labelled[index] = result
    return [_cut(document, result, settings) for document, result in zip(documents, labelled, strict=True) if result]


def _encode_texts(
    documents: Sequence[Document], tokenizer: TextTokenizer, settings: TokenizationSettings
) -> list[_Labelled | Reject]:
    texts = [document.content for document in documents if isinstance(document.content, str)]
    return [_labelled(ids, 0, tokenizer, settings, add_eos=settings.eos) for ids in tokenizer.encode_texts(texts)]


def _encode_pairs(
    documents: Sequence[Document], tokenizer: TextTokenizer, settings: TokenizationSettings
) -> list[_Labelled | Reject]:
    """The ids begin with those of the prompt alone, because a student is given the prompt alone.

    Prompt and completion are encoded in one piece if the result begins with those ids. If a token crosses the border,
    the completion is encoded on its own.
    """
    pairs = [document.content for document in documents if isinstance(document.content, Pair)]
    prompts = tokenizer.encode_texts([pair.prompt for pair in pairs])
    wholes = tokenizer.encode_texts([pair.prompt + pair.completion for pair in pairs])
    results: list[_Labelled | Reject] = []
    for pair, prompt, whole in zip(pairs, prompts, wholes, strict=True):
        ids = whole
        if whole[: len(prompt)] != prompt:
            ids = prompt + tokenizer.encode_continuation(pair.completion)
        results.append(_labelled(ids, len(prompt), tokenizer, settings, add_eos=settings.eos))
    return results


def _encode_chats(
    documents: Sequence[Document], tokenizer: TextTokenizer, settings: TokenizationSettings
) -> list[_Labelled | Reject]:
    """The template writes all special tokens of a chat: no EOS is added, and a BOS only with `bos: always`."""
    template = tokenizer.require_chat_template()
    results: list[_Labelled | Reject] = []
    for document in documents:
        assert isinstance(document.content, Chat)
        try:
            if settings.chat_targets == "all":
                text, spans = template.render_text(document.content.messages), None
            else:
                text, spans = template.render(document.content.messages)
        except UnusableChatError as error:
            results.append(_reject(document, RejectReason.BAD_CHAT, f"the chat template refuses the chat: {error}"))
            continue
        encoding = tokenizer.encode_with_offsets([text])[0]
        add_bos = settings.bos == "always"
        ids_L, is_label_L = _labelled(encoding.ids, 0, tokenizer, settings, add_eos=False, add_bos=add_bos)
        if spans is not None:
            n_added = len(ids_L) - len(encoding.ids)
            is_label_L[:n_added] = False
            is_label_L[n_added:] &= _inside(np.array(encoding.offsets, np.int64).reshape(-1, 2), spans)
        results.append((ids_L, is_label_L))
    return results


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


def _inside(offsets_L2: npt.NDArray[np.int64], spans: Sequence[tuple[int, int]]) -> BoolArray:
    """Which tokens lie wholly inside one of the spans; a token across a border is not inside."""
    inside_L = np.zeros(len(offsets_L2), dtype=np.bool_)
    for start, end in spans:
        inside_L |= (offsets_L2[:, 0] >= start) & (offsets_L2[:, 1] <= end) & (start < end)
    return inside_L


def _cut(
    document: Document, labelled: _Labelled | Reject, settings: TokenizationSettings
) -> TokenizedDocument | Reject:
    """The windows of a document that carry a target."""
    if isinstance(labelled, Reject):
        return labelled
    ids_L, is_label_L = labelled
    if len(ids_L) < settings.min_tokens:
        return _reject(document, RejectReason.TOO_SHORT, f"{len(ids_L)} tokens, min_tokens is {settings.min_tokens}")
    sequences = []
    for number, (start, end, first_label) in enumerate(windows(len(ids_L), settings.window, settings.overlap)):
        has_target_n = np.zeros(end - start, dtype=np.bool_)
        has_target_n[first_label - start - 1 : -1] = is_label_L[first_label:end]
        if has_target_n.any():
            sequences.append(TokenSequence(document.doc_id, number, start, ids_L[start:end], has_target_n))
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
