"""Which documents, windows and positions are compared: few, so that a check takes minutes at most.

Shapes: n tokens of one sequence.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from logitlake.pipeline.corpus.document import Reject
from logitlake.pipeline.corpus.rejects import RejectGuard
from logitlake.pipeline.settings.corpus import CorpusSettings
from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.pipeline.tokens.sequences import TokenizedDocument, TokenSequence, tokenize_documents
from logitlake.pipeline.tokens.tokenizer import TextTokenizer

# Log-probabilities of the windows of a group in float64: 256 MB, of which there are a few copies.
_ELEMENTS = 1 << 25
_POSITIONS = 64
_FEWEST_POSITIONS = 8


def first_documents(
    corpus: CorpusSettings, tokenizer: TextTokenizer, tokenization: TokenizationSettings, n_documents: int
) -> list[TokenizedDocument]:
    """The first documents of a corpus that a capture would compute, each once; later ones are not read.

    Raises CorpusError if too much of what comes before them is unusable.
    """
    guard = RejectGuard(corpus)
    documents: dict[str, TokenizedDocument] = {}
    for item in guard.watch(corpus.read()):
        if isinstance(item, Reject) or item.doc_id in documents:
            continue
        [outcome] = tokenize_documents([item], tokenizer, tokenization)
        if isinstance(outcome, Reject):
            guard.refuse(replace(outcome, corpus=item.corpus, source=item.source, line=item.line))
            continue
        documents[item.doc_id] = outcome
        if len(documents) == n_documents:
            break
    return list(documents.values())


def sampled_windows(documents: Sequence[TokenizedDocument], vocab_size: int) -> list[tuple[str, TokenSequence]]:
    """The first and the last window of each document, with at most 64 of its targets; each with the document's id.

    The targets are spread evenly, the first and the last included: fewer where the vocabulary is large, so that all
    log-probabilities together stay within 256 MB, but 8 at least. What is larger is compared by groups.
    """
    windows = [
        (tokenized.document.doc_id, sequence)
        for tokenized in documents
        for sequence in dict.fromkeys((tokenized.sequences[0], tokenized.sequences[-1]))
    ]
    most = _ELEMENTS // (max(vocab_size, 1) * max(len(windows), 1))
    n_positions = min(max(most, _FEWEST_POSITIONS), _POSITIONS)
    return [(doc_id, _thinned(sequence, n_positions)) for doc_id, sequence in windows]


def in_groups(sequences: Sequence[TokenSequence], vocab_size: int) -> list[range]:
    """Which sequences are compared together, as ranges of indices: those whose log-probabilities stay within 256 MB.

    A sequence that alone has more is a group of its own.
    """
    groups, begin, n_elements = [], 0, 0
    for index, sequence in enumerate(sequences):
        n_own = int(sequence.has_target.sum()) * vocab_size
        if index > begin and n_elements + n_own > _ELEMENTS:
            groups.append(range(begin, index))
            begin, n_elements = index, 0
        n_elements += n_own
    return [*groups, range(begin, len(sequences))] if len(sequences) else []


def _thinned(sequence: TokenSequence, n_positions: int) -> TokenSequence:
    """The sequence with at most `n_positions` of its targets."""
    positions = np.flatnonzero(sequence.has_target)
    chosen = positions[np.unique(np.linspace(0, len(positions) - 1, n_positions).round().astype(int))]
    has_target_n = np.zeros_like(sequence.has_target)
    has_target_n[chosen] = True
    return replace(sequence, has_target=has_target_n)
