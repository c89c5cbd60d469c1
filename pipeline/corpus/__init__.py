"""Readers: a corpus in, a stream of documents and rejects out."""
