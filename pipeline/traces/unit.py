"""Computes a work unit: writes its samples, then judges them and the traces that wait for a verdict."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from logitlake.pipeline.settings.verifier import Case, VerifierSettings
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.pipeline.traces.planning import TraceUnit
from logitlake.pipeline.traces.writer import Completion, Request, Writer
from logitlake.storage.errors import SettingsError
from logitlake.storage.identity import canonical_json, digest, trace_id
from logitlake.storage.writing.traces import TRACES, VERDICTS


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingRecipe:
    """Everything that decides what is written: the model, its tokenizer, and how it samples.

    `writer` is the model's id. Batch size, device and library versions are not part of it.
    """

    writer: str
    record: Mapping[str, Any]

    @property
    def sampling_id(self) -> str:
        """Hash of the record."""
        return digest(b"sampling", canonical_json(dict(self.record)))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WrittenTraces:
    """Rows to commit (TRACES), and the seconds of the writer."""

    traces: pa.Table
    seconds: float


def check_references(unit: TraceUnit, verifier: VerifierSettings) -> None:
    """Raises SettingsError if the verifier needs a reference and a prompt has none: nothing is written then."""
    if not verifier.needs_reference:
        return
    for prompt in unit.prompts.values():
        if prompt.reference is None:
            raise SettingsError(
                f"generate.verifier {verifier.name}: expected a reference with each prompt, found none in "
                f"{prompt.corpus}/{prompt.source}, record {prompt.line}; name its field by generate.prompts."
                "completion_field (with prompt_field), or let the chats end with the assistant's answer"
            )


def write_traces(
    unit: TraceUnit,
    writer: Writer | None,
    *,
    recipe: SamplingRecipe,
    tokenizer: TextTokenizer,
    on_tokens: Callable[[int], None] = lambda n: None,
) -> WrittenTraces:
    """Write the samples of a unit. `writer` may be None for a unit without requests."""
    began = time.perf_counter()
    completions: list[Completion] = []
    if unit.requests:
        assert writer is not None, "samples to write, and nothing to write them"
        completions = writer.write(unit.requests, on_tokens)
    seconds = time.perf_counter() - began
    rows = [
        _trace(unit, request, completion, recipe, tokenizer)
        for request, completion in zip(unit.requests, completions, strict=True)
    ]
    return WrittenTraces(traces=pa.Table.from_pylist(rows, TRACES), seconds=seconds)


def judge_traces(unit: TraceUnit, traces: Sequence[pa.Table], verifier: VerifierSettings) -> pa.Table:
    """Verdicts (VERDICTS) on the traces of these tables, each trace once. Raises what the verifier raises."""
    waiting = {row["doc_id"]: row for table in traces for row in table.to_pylist()}
    return _verdicts(unit, [*waiting.values()], verifier)


def _trace(
    unit: TraceUnit, request: Request, completion: Completion, recipe: SamplingRecipe, tokenizer: TextTokenizer
) -> dict[str, Any]:
    prompt = unit.prompts[request.prompt_id]
    return {
        "doc_id": trace_id(request.prompt_id, request.prompt_ids, completion.ids),
        "prompt_id": request.prompt_id,
        "prompt_doc_id": prompt.doc_id,
        "sampling_id": recipe.sampling_id,
        "sample_number": request.number,
        "writer": recipe.writer,
        "sampling": json.dumps(dict(recipe.record), sort_keys=True),
        "tokenizer_id": tokenizer.fingerprint,
        "prompt_ids": list(request.prompt_ids),
        "completion_ids": list(completion.ids),
        "logprobs": list(completion.logprobs),
        "finished": completion.finished,
        "completion": completion_text(tokenizer, request.prompt_ids, completion.ids),
        "corpus": prompt.corpus,
        "source": prompt.source,
        "line": prompt.line,
    }


def completion_text(tokenizer: TextTokenizer, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> str:
    """The completion as text behind its prompt, without special tokens.

    Some tokenizers drop a space at the beginning of a text, so both are decoded together.
    """
    decode = tokenizer.backend.decode
    before, whole = decode(list(prompt_ids)), decode([*prompt_ids, *completion_ids])
    text = whole[len(before) :] if whole.startswith(before) else decode(list(completion_ids))
    return str(text)


def _verdicts(unit: TraceUnit, rows: Sequence[Mapping[str, Any]], verifier: VerifierSettings) -> pa.Table:
    cases = [
        Case(
            doc_id=row["doc_id"],
            prompt=unit.prompts[row["prompt_id"]].text,
            completion=row["completion"],
            reference=unit.prompts[row["prompt_id"]].reference,
            finished=row["finished"],
        )
        for row in rows
    ]
    text = json.dumps(verifier.record(), sort_keys=True)
    verdicts = [
        {
            "doc_id": case.doc_id,
            "verifier_id": verifier.verifier_id,
            "reference_id": unit.prompts[row["prompt_id"]].reference_id,
            "verifier": text,
            "score": judgement.score,
            "is_kept": verifier.keeps(case, judgement),
            "reason": judgement.reason,
        }
        for row, case, judgement in zip(rows, cases, verifier.judge(cases) if cases else [], strict=True)
        if judgement is not None
    ]
    return pa.Table.from_pylist(verdicts, VERDICTS)
