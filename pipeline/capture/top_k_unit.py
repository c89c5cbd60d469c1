"""One work unit of a teacher that gives only its most probable ids: log-probs → targets → rows.

Shapes: P positions with a target of one batch in row-major order, k ids of each, S uniforms per position.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa

from logitlake.pipeline.capture.planning import WorkUnit
from logitlake.pipeline.capture.recipe import Recipe
from logitlake.pipeline.capture.trace_columns import with_trace_columns
from logitlake.pipeline.capture.unit import CapturedUnit
from logitlake.pipeline.settings.models import CaptureSettings
from logitlake.pipeline.targets.counter_random import document_keys, uniforms
from logitlake.pipeline.targets.encoding import RowOrigin, encode_rows
from logitlake.pipeline.targets.sparsifiers.blocks import Statistics
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.targets.sparsifiers.top_k import TopKSettings
from logitlake.pipeline.targets.top_logprobs import targets_of_logprobs
from logitlake.pipeline.teachers.top_k_engine import TopKEngine, TopLogprobs, WantedLogprobs
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.storage.errors import MismatchError
from logitlake.storage.schema.sequences import CAPTURED


def capture_top_k_unit(
    unit: WorkUnit,
    *,
    engine: TopKEngine,
    recipe: Recipe,
    settings: CaptureSettings,
    on_progress: Callable[[int], None] | None = None,
) -> CapturedUnit:
    """As capture_unit, with an engine that gives the most probable ids.

    Rows are encoded while later answers are awaited. Raises MismatchError if the engine's vocabulary is not that of the
    recipe.
    """
    begin = time.perf_counter()
    if engine.vocab_size != recipe.vocabulary:
        raise MismatchError(
            f"teacher: expected a vocabulary of {recipe.vocabulary} as in the recipe, found {engine.vocab_size}"
        )
    target = recipe.target
    assert isinstance(target, TopKSettings), "the recipe refuses other sparsifiers"
    sequences = [sequence for document in unit.documents for sequence in document.sequences]
    corpora = [tokenized.document.corpus for tokenized in unit.documents for _ in tokenized.sequences]
    sources = [tokenized.document.source for tokenized in unit.documents for _ in tokenized.sequences]
    answers = engine.top_logprobs(
        (WantedLogprobs(input_ids=s.input_ids, has_target=s.has_target) for s in sequences), k=target.k
    )
    tables = [CAPTURED.empty_table()]
    for part in _batches(sequences, settings.batch_tokens):
        batch = sequences[part]
        targets, statistics = top_k_targets(
            batch, list(islice(answers, len(batch))), target, vocabulary=recipe.vocabulary
        )
        origin = RowOrigin(recipe_id=recipe.recipe_id, corpora=corpora[part], sources=sources[part])
        steps = target.logprob_steps_per_nat
        tables.append(encode_rows(batch, targets, statistics, origin, nll_steps_per_nat=steps))
        if on_progress is not None:
            on_progress(sum(len(sequence.input_ids) for sequence in batch))
    return CapturedUnit(
        rows=with_trace_columns(pa.concat_tables(tables).combine_chunks(), unit),
        n_tokens=unit.n_tokens,
        n_targets=sum(int(sequence.has_target.sum()) for sequence in sequences),
        seconds=time.perf_counter() - begin,
    )


def top_k_targets(
    batch: Sequence[TokenSequence], answers: Sequence[TopLogprobs], target: TopKSettings, *, vocabulary: int
) -> tuple[CodedTargets, Statistics]:
    """Targets and statistics of a batch; the entropy is not known. Uniforms are keyed as in `batch_targets`."""
    labelled = [np.flatnonzero(sequence.has_target) for sequence in batch]
    counts = [len(indices) for indices in labelled]
    keys_P2 = np.repeat(document_keys(target.seed, [sequence.doc_id for sequence in batch]), counts, axis=0)
    labels_P = np.concatenate([sequence.start + at + 1 for sequence, at in zip(batch, labelled, strict=True)])
    targets = targets_of_logprobs(
        np.concatenate([answer.ids for answer in answers]),
        np.concatenate([answer.logprobs for answer in answers]),
        uniforms(keys_P2, labels_P, 1),
        levels=target.levels_in_use,
        vocabulary=vocabulary,
    )
    return targets, Statistics(entropy=None, nll=-np.concatenate([answer.next_logprobs for answer in answers]))


def _batches(sequences: Sequence[TokenSequence], batch_tokens: int) -> Iterator[slice]:
    """Slices of sequences in their order, of about `batch_tokens` tokens: what is encoded at once."""
    begin = n_tokens = 0
    for number, sequence in enumerate(sequences):
        if number > begin and n_tokens + len(sequence.input_ids) > batch_tokens:
            yield slice(begin, number)
            begin, n_tokens = number, 0
        n_tokens += len(sequence.input_ids)
    if begin < len(sequences):
        yield slice(begin, len(sequences))
