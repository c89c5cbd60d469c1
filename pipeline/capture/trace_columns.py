"""The columns of the cache that only a generated trace has: its writer, how it was sampled, and the verdict.

Shapes: n tokens of one sequence.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from logitlake.pipeline.capture.planning import WorkUnit
from logitlake.pipeline.corpus.document import Trace
from logitlake.pipeline.targets.encoding import statistic_codes
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.storage.schema.sequences import CAPTURED

# Importance weights multiply the ratios of hundreds of tokens: 1/32 nat would be too coarse.
WRITER_STEPS_PER_NAT = 1024

_COLUMNS: dict[str, Callable[[Trace, TokenSequence], Any]] = {
    "writer": lambda trace, sequence: trace.writer,
    "sampling_settings": lambda trace, sequence: trace.sampling,
    "sampling_seed": lambda trace, sequence: trace.seed,
    "sample_number": lambda trace, sequence: trace.sample_number,
    "writer_nll_codes": lambda trace, sequence: writer_codes(trace, sequence),
    "writer_nll_steps_per_nat": lambda trace, sequence: WRITER_STEPS_PER_NAT,
    "verdict": lambda trace, sequence: trace.score,
    "verdict_reason": lambda trace, sequence: trace.reason,
}


def with_trace_columns(rows: pa.Table, unit: WorkUnit) -> pa.Table:
    """`rows` (CAPTURED), one for each sequence of the unit in order, with the columns of its traces filled."""
    contents = [document.document.content for document in unit.documents for _ in document.sequences]
    if not any(isinstance(content, Trace) for content in contents):
        return rows
    sequences = [sequence for document in unit.documents for sequence in document.sequences]
    for name, value_of in _COLUMNS.items():
        values = [
            value_of(content, sequence) if isinstance(content, Trace) else None
            for content, sequence in zip(contents, sequences, strict=True)
        ]
        field = CAPTURED.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))
    return rows


def writer_codes(trace: Trace, sequence: TokenSequence) -> list[int | None]:
    """Per position i of a sequence, the code of the writer's log-probability of token i + 1; None without a target."""
    n = len(sequence.input_ids)
    at_n = sequence.start + np.arange(n) + 1 - len(trace.prompt_ids)
    nll = -np.array(trace.logprobs, np.float64)
    codes_n = statistic_codes(np.maximum(nll[np.clip(at_n, 0, len(nll) - 1)], 0), WRITER_STEPS_PER_NAT)
    return [int(code) if wanted else None for code, wanted in zip(codes_n, sequence.has_target, strict=True)]
