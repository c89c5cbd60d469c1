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
from logitlake.pipeline.teachers.engine import Engine, NotRecordedError, Prefetching
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.storage.errors import MismatchError
from logitlake.storage.schema.sequences import CAPTURED

# Batches that may wait for the encoder: enough to overlap, few enough to bound memory.
_WAITING = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class CapturedUnit:
    """The rows of one work unit (CAPTURED) in the order of the unit, and its tokens, targets and seconds.

    `further_rows`: those of the further recipes, in their order.
    """

    rows: pa.Table
    further_rows: tuple[pa.Table, ...] = ()
    n_tokens: int
    n_targets: int
    seconds: float


def capture_unit(
    unit: WorkUnit,
    *,
    engine: Engine,
    recipe: Recipe,
    settings: CaptureSettings,
    further: Sequence[Recipe] = (),
    on_progress: Callable[[int], None] | None = None,
) -> CapturedUnit:
    """Run the teacher over a unit. `on_progress` is called with the tokens of each finished batch.

    `further` recipes differ from `recipe` in their targets only: all are drawn from the same forward.

    Writes nothing. An error of the encoder is raised here, and no thread outlives the call, also if it raises or is
    interrupted. Raises MismatchError if the engine's vocabulary is not the
    recipe's, and for a document that is not in the recording that is replayed.
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
    recipes = (recipe, *further)
    draws = [Draw(make_sparsifier(r.target), r.target.temperature, r.target.seed) for r in recipes]
    tables: list[list[pa.Table]] = []
    waiting: deque[Future[list[pa.Table]]] = deque()
    if isinstance(engine, Prefetching):
        chosen = [[sequences[i] for i in indices] for indices in batches]
        engine.prefetch([([s.input_ids for s in batch], [s.has_target for s in batch]) for batch in chosen])
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode") as encoder:
        try:
            for indices in batches:
                batch = [sequences[i] for i in indices]
                try:
                    targets, statistics = draw_targets(engine, batch, draws)
                except NotRecordedError as error:
                    sequence, i = batch[error.sequence], indices[error.sequence]
                    raise MismatchError(
                        f"document {sequence.doc_id} ({corpora[i]}/{sources[i]}), window {sequence.window}: {error}"
                    ) from None
                origins = [
                    RowOrigin(
                        recipe_id=r.recipe_id,
                        corpora=[corpora[i] for i in indices],
                        sources=[sources[i] for i in indices],
                    )
                    for r in recipes
                ]
                steps = [r.target.logprob_steps_per_nat for r in recipes]
                waiting.append(encoder.submit(_encode_all, batch, targets, statistics, origins, steps))
                while len(waiting) > _WAITING:
                    tables.append(waiting.popleft().result())
                if on_progress is not None:
                    on_progress(sum(len(sequence.input_ids) for sequence in batch))
            tables.extend(future.result() for future in waiting)
        finally:
            encoder.shutdown(wait=True, cancel_futures=True)
    order = [i for indices in batches for i in indices]
    in_order = [_in_order([batch[number] for batch in tables], order) for number in range(len(recipes))]
    rows, *further_rows = (with_trace_columns(part, unit) for part in in_order)
    return CapturedUnit(
        rows=rows,
        further_rows=tuple(further_rows),
        n_tokens=unit.n_tokens,
        n_targets=sum(int(sequence.has_target.sum()) for sequence in sequences),
        seconds=time.perf_counter() - begin,
    )


@dataclass(frozen=True, slots=True)
class Draw:
    """One kind of target to draw: its sparsifier, temperature and seed."""

    sparsifier: Sparsifier
    temperature: float
    seed: int


def batch_targets(
    engine: Engine,
    batch: Sequence[TokenSequence],
    sparsifiers: Sequence[Sparsifier],
    *,
    temperature: float,
    seed: int,
) -> tuple[list[CodedTargets], Statistics]:
    """The targets of each sparsifier at one temperature; see `draw_targets`."""
    return draw_targets(engine, batch, [Draw(sparsifier, temperature, seed) for sparsifier in sparsifiers])


def draw_targets(
    engine: Engine, batch: Sequence[TokenSequence], draws: Sequence[Draw]
) -> tuple[list[CodedTargets], Statistics]:
    """One forward over a batch: the targets of each draw at its temperature, and statistics at temperature 1.

    Uniforms are keyed by document and by the label's absolute position in it: windows and batches do not change them.
    """
    labelled = [np.flatnonzero(sequence.has_target) for sequence in batch]
    counts = [len(indices) for indices in labelled]
    doc_ids = [sequence.doc_id for sequence in batch]
    keys_P2 = {s: np.repeat(document_keys(s, doc_ids), counts, axis=0) for s in {draw.seed for draw in draws}}
    labels_P = np.concatenate([sequence.start + at + 1 for sequence, at in zip(batch, labelled, strict=True)])
    next_ids_P = np.concatenate([sequence.input_ids[at + 1] for sequence, at in zip(batch, labelled, strict=True)])
    chunks: list[list[CodedTargets]] = [[] for _ in draws]
    entropies, nlls = [np.zeros(0)], [np.zeros(0)]
    begin = 0
    for logits_pV in engine.forward([s.input_ids for s in batch], [s.has_target for s in batch]):
        chunk = slice(begin, begin + len(logits_pV))
        begin = chunk.stop
        blocks = {t: Blocks(logits_pV, t) for t in {1.0, *(draw.temperature for draw in draws)}}
        entropies.append(blocks[1.0].entropy())
        nlls.append(blocks[1.0].negative_logprobs(next_ids_P[chunk]))
        for draw, parts in zip(draws, chunks, strict=True):
            drawn = uniforms(keys_P2[draw.seed][chunk], labels_P[chunk], draw.sparsifier.streams)
            parts.append(draw.sparsifier(blocks[draw.temperature], drawn))
    assert begin == len(labels_P), f"engine gave logits of {begin} positions, expected {len(labels_P)}"
    targets = [concatenate(parts, draw.sparsifier.levels) for draw, parts in zip(draws, chunks, strict=True)]
    return targets, Statistics(entropy=np.concatenate(entropies), nll=np.concatenate(nlls))


def _encode_all(
    batch: Sequence[TokenSequence],
    targets: Sequence[CodedTargets],
    statistics: Statistics,
    origins: Sequence[RowOrigin],
    steps: Sequence[int],
) -> list[pa.Table]:
    """The rows of a batch, a table for each recipe."""
    return [
        encode_rows(batch, coded, statistics, origin, nll_steps_per_nat=n)
        for coded, origin, n in zip(targets, origins, steps, strict=True)
    ]


def _in_order(tables: list[pa.Table], indices: list[int]) -> pa.Table:
    """The batches' rows, row i of them belonging at `indices[i]`."""
    if not tables:
        return CAPTURED.empty_table()
    order = np.empty(len(indices), np.int64)
    order[np.array(indices)] = np.arange(len(indices))
    return pa.concat_tables(tables).take(pa.array(order)).combine_chunks()
