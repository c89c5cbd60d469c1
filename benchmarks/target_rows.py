"""Rows of the cache from sequences and a sparsifier, as a capture would make them."""

from collections.abc import Sequence

import pyarrow as pa

from benchmarks.replay import ReplayedTeacher
from logitlake.pipeline.capture.drawing import batch_targets
from logitlake.pipeline.targets.encoding import RowOrigin, encode_rows
from logitlake.pipeline.targets.sparsifiers import Sparsifier
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.storage.identity import ID_LENGTH


def target_rows(
    teacher: ReplayedTeacher, batch: Sequence[TokenSequence], sparsifier: Sparsifier, *, seed: int
) -> pa.Table:
    """The rows of a batch with one draw of targets at temperature 1."""
    (targets,), statistics = batch_targets(teacher, batch, [sparsifier], temperature=1.0, seed=seed)
    return encode_rows(batch, targets, statistics, origin_of(batch))


def origin_of(batch: Sequence[TokenSequence]) -> RowOrigin:
    """An empty origin for rows that no lake stores."""
    names = [""] * len(batch)
    return RowOrigin(recipe_id="0" * ID_LENGTH, corpora=names, sources=names)
