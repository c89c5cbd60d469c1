"""Readers: a corpus in, a stream of documents and rejects out."""

from logitlake.pipeline.corpus.document import Chat, Content, Document, Pair, Reject, RejectReason
from logitlake.pipeline.corpus.readers.registry import read_corpus
from logitlake.pipeline.corpus.rejects import guard_rejects

__all__ = [
    "Chat",
    "Content",
    "Document",
    "Pair",
    "Reject",
    "RejectReason",
    "guard_rejects",
    "read_corpus",
]
