"""One work unit: forward → sparsify → rows. Encoding runs in a thread beside the next forward."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from logitlake.pipeline.capture.drawing import Draw, PendingTargets, start_drawing
from logitlake.pipeline.capture.planning import WorkUnit, make_batches
from logitlake.pipeline.capture.recipe import Recipe
from logitlake.pipeline.capture.trace_columns import with_trace_columns
from logitlake.pipeline.settings.models import CaptureSettings
from logitlake.pipeline.targets.encoding import RowOrigin, encode_rows
from logitlake.pipeline.targets.sparsifiers import make_sparsifier
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
                    pending = start_drawing(engine, batch, draws)
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
                waiting.append(encoder.submit(_encode_all, batch, pending, origins, steps))
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


def _encode_all(
    batch: Sequence[TokenSequence],
    pending: PendingTargets,
    origins: Sequence[RowOrigin],
    steps: Sequence[int],
) -> list[pa.Table]:
    """The rows of a batch, a table for each recipe, once its targets have arrived."""
    targets, statistics = pending.result()
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
