"""Evaluates students on held-out documents, and decides between two of them."""
