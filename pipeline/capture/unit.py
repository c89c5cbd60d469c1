"""One work unit: forward → sparsify → rows. Encoding runs in a thread beside the next forward.

Shapes: P positions with a target of one batch in row-major order, p of one chunk of logits, S uniforms per position,
V vocabulary.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from logitlake.pipeline.capture.planning import WorkUnit, make_batches
from logitlake.pipeline.capture.recipe import Recipe
from logitlake.pipeline.capture.trace_columns import with_trace_columns
from logitlake.pipeline.settings.models import CaptureSettings
from logitlake.pipeline.targets.counter_random import document_keys, uniforms
from logitlake.pipeline.targets.encoding import RowOrigin, encode_rows
from logitlake.pipeline.targets.sparsifiers import Sparsifier, make_sparsifier
from logitlake.pipeline.targets.sparsifiers.blocks import Blocks, Statistics
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets, concatenate
from logitlake.pipeline.teachers.engine import Engine
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.storage.errors import MismatchError
from logitlake.storage.schema.sequences import CAPTURED

# Batches that may wait for the encoder: enough to overlap, few enough to bound memory.
_WAITING = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class CapturedUnit:
    """The rows of one work unit (CAPTURED) in the order of the unit, and its tokens, targets and seconds."""

    rows: pa.Table
    n_tokens: int
    n_targets: int
    seconds: float


def capture_unit(
    unit: WorkUnit,
    *,
    engine: Engine,
    recipe: Recipe,
    settings: CaptureSettings,
    on_progress: Callable[[int], None] | None = None,
) -> CapturedUnit:
    """Run the teacher over a unit. `on_progress` is called with the tokens of each finished batch.

    Writes nothing. An error of the encoder is raised here, and no thread outlives the call, also if it raises or is
    interrupted. Raises MismatchError if the engine's vocabulary is not the
    recipe's.
    """
    begin = time.perf_counter()
    if engine.vocab_size != recipe.vocabulary:
        raise MismatchError(
            f"teacher: expected a vocabulary of {recipe.vocabulary} as in the recipe, found {engine.vocab_size}"
        )
    sequences = [sequence for document in unit.documents for sequence in document.sequences]
    corpora = [tokenized.document.corpus for tokenized in unit.documents for _ in tokenized.sequences]
    sources = [tokenized.document.source for tokenized in unit.documents for _ in tokenized.sequences]
    batches = make_batches([len(sequence.input_ids) for sequence in sequences], settings.batch_tokens)
    sparsifier, target = make_sparsifier(recipe.target), recipe.target
    tables: list[pa.Table] = []
    waiting: deque[Future[pa.Table]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode") as encoder:
        try:
            for indices in batches:
                batch = [sequences[i] for i in indices]
                (targets,), statistics = batch_targets(
                    engine, batch, [sparsifier], temperature=target.temperature, seed=target.seed
                )
                origin = RowOrigin(
                    recipe_id=recipe.recipe_id,
                    corpora=[corpora[i] for i in indices],
                    sources=[sources[i] for i in indices],
                )
                steps = recipe.target.logprob_steps_per_nat
                waiting.append(encoder.submit(encode_rows, batch, targets, statistics, origin, nll_steps_per_nat=steps))
                while len(waiting) > _WAITING:
                    tables.append(waiting.popleft().result())
                if on_progress is not None:
                    on_progress(sum(len(sequence.input_ids) for sequence in batch))
            tables.extend(future.result() for future in waiting)
        finally:
            encoder.shutdown(wait=True, cancel_futures=True)
    rows = with_trace_columns(_in_order(tables, [i for indices in batches for i in indices]), unit)
    return CapturedUnit(
        rows=rows,
        n_tokens=unit.n_tokens,
        n_targets=sum(int(sequence.has_target.sum()) for sequence in sequences),
        seconds=time.perf_counter() - begin,
    )


def batch_targets(
    engine: Engine,
    batch: Sequence[TokenSequence],
    sparsifiers: Sequence[Sparsifier],
    *,
    temperature: float,
    seed: int,
) -> tuple[list[CodedTargets], Statistics]:
    """One forward over a batch: the targets of each sparsifier at `temperature`, and statistics at temperature 1.

    Uniforms are keyed by document and by the label's absolute position in it: windows and batches do not change them.
    """
    labelled = [np.flatnonzero(sequence.has_target) for sequence in batch]
    counts = [len(indices) for indices in labelled]
    keys_P2 = np.repeat(document_keys(seed, [sequence.doc_id for sequence in batch]), counts, axis=0)
    labels_P = np.concatenate([sequence.start + at + 1 for sequence, at in zip(batch, labelled, strict=True)])
    next_ids_P = np.concatenate([sequence.input_ids[at + 1] for sequence, at in zip(batch, labelled, strict=True)])
    chunks: list[list[CodedTargets]] = [[] for _ in sparsifiers]
    entropies, nlls = [np.zeros(0)], [np.zeros(0)]
    begin = 0
    for logits_pV in engine.forward([s.input_ids for s in batch], [s.has_target for s in batch]):
        chunk = slice(begin, begin + len(logits_pV))
        begin = chunk.stop
        blocks = Blocks(logits_pV, temperature)
        at_one = blocks if temperature == 1 else Blocks(logits_pV)
        entropies.append(at_one.entropy())
        nlls.append(at_one.negative_logprobs(next_ids_P[chunk]))
        for sparsifier, parts in zip(sparsifiers, chunks, strict=True):
            parts.append(sparsifier(blocks, uniforms(keys_P2[chunk], labels_P[chunk], sparsifier.streams)))
    assert begin == len(labels_P), f"engine gave logits of {begin} positions, expected {len(labels_P)}"
    targets = [concatenate(parts, s.levels) for s, parts in zip(sparsifiers, chunks, strict=True)]
    return targets, Statistics(entropy=np.concatenate(entropies), nll=np.concatenate(nlls))


def _in_order(tables: list[pa.Table], indices: list[int]) -> pa.Table:
    """The batches' rows, row i of them belonging at `indices[i]`."""
    if not tables:
        return CAPTURED.empty_table()
    order = np.empty(len(indices), np.int64)
    order[np.array(indices)] = np.arange(len(indices))
    return pa.concat_tables(tables).take(pa.array(order)).combine_chunks()
