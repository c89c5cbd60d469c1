"""Rows of the cache made from the names of documents: cheap to commit, and the same rows for the same names."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from logitlake.storage.identity import document_id, recipe_id
from logitlake.storage.schema.sequences import CAPTURED
from logitlake.storage.writing.commits import SOURCES

CORPUS = "made"


def recipe_of(temperature: float = 1.0) -> dict[str, Any]:
    """A recipe that no teacher belongs to."""
    return {
        "teacher": {"name": "made"},
        "tokenizer": "t",
        "sparsifier": {"name": "varopt"},
        "temperature": temperature,
    }


def made_rows(names: Sequence[str], recipe: dict[str, Any]) -> pa.Table:
    """What a capture of the documents would hand to the commit (CAPTURED): two windows of two tokens each."""
    shared = {
        "recipe_id": recipe_id(recipe),
        "corpus": CORPUS,
        "start": 0,
        "n_tokens": 2,
        "n_targets": 1,
        "levels": 64,
        "target_ids": [[2, 3], []],
        "head_codes": [[60], []],
        "entropy_codes": [1, None],
        "nll_codes": [1, None],
        "mean_entropy": 0.1,
        "mean_nll": 0.1,
    }
    rows = [
        {**shared, "doc_id": document_id(name), "source": name, "window_index": window, "input_ids": [window, 7]}
        for name in names
        for window in range(2)
    ]
    return pa.Table.from_pylist(rows, CAPTURED)


def made_sources(names: Sequence[str]) -> pa.Table:
    """The files that the documents were read from."""
    rows = [{"doc_id": document_id(name), "corpus": CORPUS, "source": name, "line": None} for name in names]
    return pa.Table.from_pylist(rows, SOURCES)
