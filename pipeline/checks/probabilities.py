"""Log-probabilities of an engine against others of the same tokens: plain transformers, another batch, a shorter text.

Shapes: n tokens of one sequence, p of its positions with a target, P positions of all sequences, V ids.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from logitlake.pipeline.checks.outcome import Outcome, judged
from logitlake.pipeline.teachers.engine import Engine
from logitlake.pipeline.tokens.sequences import TokenSequence


def engine_logprobs(engine: Engine, batch: Sequence[TokenSequence]) -> list[torch.Tensor]:
    """Log-probabilities float64[p, V] of each sequence of one batch, on the CPU."""
    chunks = engine.forward([s.input_ids for s in batch], [s.has_target for s in batch])
    # A chunk is valid until the next one.
    logprobs_PV = torch.cat([chunk_pV.cpu().double().log_softmax(-1) for chunk_pV in chunks])
    return list(logprobs_PV.split([int(sequence.has_target.sum()) for sequence in batch]))


def logprobs_alone(engine: Engine, sequences: Sequence[TokenSequence]) -> list[torch.Tensor]:
    """The same with each sequence in a batch of its own."""
    return [engine_logprobs(engine, [sequence])[0] for sequence in sequences]


def with_other_ends(sequences: Sequence[TokenSequence], vocab_size: int) -> list[tuple[int, TokenSequence]]:
    """Each sequence with other tokens from the middle one of its targets on, and its targets before; with its index.

    The length stays: some RoPE scalings depend on it. Sequences of one target are left out.
    """
    others = []
    for index, sequence in enumerate(sequences):
        positions = np.flatnonzero(sequence.has_target)
        if len(positions) > 1:
            end = int(positions[len(positions) // 2])
            ids_n, has_target_n = sequence.input_ids.copy(), sequence.has_target.copy()
            ids_n[end:] = (ids_n[end:] + 1) % vocab_size
            has_target_n[end:] = False
            others.append((index, replace(sequence, input_ids=ids_n, has_target=has_target_n)))
    return others


def divergence(expected_pV: torch.Tensor, found_pV: torch.Tensor) -> float:
    """Mean KL(expected ‖ found) in nats; infinite for NaN or for other shapes.

    The double precision of the arguments keeps the error far below 1e-7.
    """
    if expected_pV.shape != found_pV.shape or bool(expected_pV.isnan().any()) or bool(found_pV.isnan().any()):
        return float("inf")
    kl_pV = torch.nn.functional.kl_div(found_pV, expected_pV, log_target=True, reduction="none")
    # 0 · (-inf - x) is 0: an id without probability that both lack.
    return abs(float(kl_pV.nan_to_num(nan=0.0, posinf=torch.inf).sum(-1).mean()))


def compared_logprobs(
    check: str,
    names: Sequence[str],
    expected: Sequence[torch.Tensor],
    found: Sequence[torch.Tensor],
    *,
    limit: float,
    what: str,
) -> Outcome:
    """The largest divergence of a sequence; at most `limit` passes. `names` are those of the sequences' documents."""
    divergences = [divergence(*pair) for pair in zip(expected, found, strict=True)]
    worst = int(np.argmax(divergences)) if divergences else 0
    return judged(
        check,
        compared=sum(len(logprobs_pV) for logprobs_pV in expected),
        unit="positions",
        difference=max(divergences, default=0.0),
        bound=limit,
        measure="nats, mean KL of a window",
        detail=f"{names[worst]}: {what}" if divergences else "",
    )
