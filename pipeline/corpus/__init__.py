"""Readers: a corpus in, a stream of documents and rejects out."""

from pipeline.corpus.document import Chat, Content, Document, Pair, Reject, RejectReason
from pipeline.corpus.readers import READERS, read_corpus
from pipeline.corpus.rejects import guard_rejects

__all__ = [
    "READERS",
    "Chat",
    "Content",
    "Document",
    "Pair",
    "Reject",
    "RejectReason",
    "guard_rejects",
    "read_corpus",
]
