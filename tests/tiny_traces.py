"""Rows of traces and verdicts for tests of the lake."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from logitlake.storage.identity import document_id, trace_id
from logitlake.storage.writing.traces import TRACES, VERDICTS

PROMPTS = [document_id(f"prompt {number}") for number in range(30)]


def trace_rows(prompts: Sequence[str], n_samples: int = 2, *, word: str = "answer") -> pa.Table:
    """`n_samples` traces for each prompt; the completion is unlike all others."""
    rows = []
    for prompt in prompts:
        for number in range(n_samples):
            ids = [int(prompt[:6], 16) % 1000, number]
            rows.append(
                {
                    "doc_id": trace_id(prompt, [1, 2], ids),
                    "prompt_id": prompt,
                    "prompt_doc_id": document_id(f"record of {prompt}"),
                    "sampling_id": "s" * 32,
                    "sample_number": number,
                    "writer": "w" * 32,
                    "sampling": "{}",
                    "tokenizer_id": "t" * 32,
                    "prompt_ids": [1, 2],
                    "completion_ids": ids,
                    "logprobs": [-0.5, -0.25],
                    "finished": True,
                    "completion": f"{word} {prompt} {number}",
                    "corpus": "questions",
                    "source": "easy/file.jsonl",
                    "line": number,
                }
            )
    return pa.Table.from_pylist(rows, TRACES)


def verdict_rows(traces: pa.Table, *, verifier: str = "v" * 32, score: float = 1.0) -> pa.Table:
    said: dict[str, Any] = {"verifier_id": verifier, "verifier": "{}", "score": score, "is_kept": score > 0}
    rows = [{"doc_id": doc_id, "reason": "", **said} for doc_id in traces["doc_id"].to_pylist()]
    return pa.Table.from_pylist(rows, VERDICTS)
