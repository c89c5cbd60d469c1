"""Readers of corpora, one kind a file: its settings, and how it is read."""
