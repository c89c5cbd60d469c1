"""Compares a teacher and its documents with plain transformers, before anything is captured."""
