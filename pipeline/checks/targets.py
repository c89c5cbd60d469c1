"""Stored targets, decoded again, against the dense distribution that they were made from.

Shapes: P positions with a target of all sequences, V ids, E stored entries.
"""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitlake.pipeline.checks.outcome import Outcome, judged
from logitlake.pipeline.settings.models import TargetSettings
from logitlake.pipeline.targets.decoding import RaggedTargets, decode_targets
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.storage.schema.sequences import STEPS_PER_NAT

# Probabilities are computed from float32 logits.
_ROUNDING = 1e-5
_NATS_ROUNDING = 1e-3
_TOP_CODE = np.iinfo(np.uint16).max
# Standard errors of a mean: chance alone exceeds 5 in less than one of a million checks.
_STANDARD_ERRORS = 5.0


def targets_outcomes(
    names: Sequence[str],
    sequences: Sequence[TokenSequence],
    rows: pa.Table,
    logprobs_PV: NDArray[np.float64],
    settings: TargetSettings,
) -> list[Outcome]:
    """Heads, sums, the mean and the statistics of `rows` (CAPTURED), one row per sequence.

    `logprobs_PV` are dense, at temperature 1. `names` are those of the sequences' documents.
    """
    targets = decode_targets(rows, cut_mass="ghost")
    has_target = np.concatenate([sequence.has_target for sequence in sequences])
    counts = [int(sequence.has_target.sum()) for sequence in sequences]
    names_P = np.repeat(np.array(names, object), counts)
    tempered_PV = _log_softmax(logprobs_PV / settings.temperature)
    entries = _Entries(targets, has_target)
    outcomes = [_sums(names_P, entries)]
    if settings.facts.heads == "probabilities":
        outcomes.insert(0, _heads(names_P, entries, tempered_PV, settings.levels_in_use))
    if settings.facts.unbiased:
        outcomes.append(_mean(entries, tempered_PV))
    return [*outcomes, _statistics(names_P, sequences, rows, has_target, logprobs_PV, settings)]


class _Entries:
    """The stored entries of the P positions: `rows`, `ids`, `probs` and `is_head` [E], and `ghost_P`."""

    def __init__(self, targets: RaggedTargets, has_target: NDArray[np.bool_]) -> None:
        counts_N = np.diff(targets.offsets)
        position_of_N = np.cumsum(has_target) - 1
        self.n_positions = int(has_target.sum())
        self.rows = np.repeat(position_of_N, counts_N)
        self.ids = targets.ids.astype(np.int64)
        self.probs = targets.probs.astype(np.float64)
        places = np.arange(len(self.ids)) - np.repeat(targets.offsets[:-1], counts_N)
        self.is_head = places < np.repeat(targets.n_heads, counts_N)
        self.stray = int(counts_N[~has_target].sum())
        ghost = targets.ghost if targets.ghost is not None else np.zeros(len(counts_N))
        self.ghost_P = ghost[has_target].astype(np.float64)

    def sums(self, values_E: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of the values of each position."""
        return np.bincount(self.rows, weights=values_E, minlength=self.n_positions).astype(np.float64)


def _heads(names_P: NDArray[np.object_], entries: _Entries, logprobs_PV: NDArray[np.float64], levels: int) -> Outcome:
    """Each head is the dense probability, rounded to a multiple of 1/levels.

    Where a position has heads, the most probable id is one of them, or less probable than one level.
    """
    probs_PV = np.exp(logprobs_PV)
    rows_H, ids_H = entries.rows[entries.is_head], entries.ids[entries.is_head]
    off_P = np.zeros(entries.n_positions)
    np.maximum.at(off_P, rows_H, np.abs(entries.probs[entries.is_head] - probs_PV[rows_H, ids_H]))
    is_head_PV = np.zeros(probs_PV.shape, np.bool_)
    is_head_PV[rows_H, ids_H] = True
    lacks_top_P = is_head_PV.any(axis=1) & ~is_head_PV[np.arange(len(probs_PV)), probs_PV.argmax(axis=1)]
    off_P = np.maximum(off_P, np.where(lacks_top_P, probs_PV.max(axis=1), 0.0))
    return _worst("target heads", names_P, off_P, 1 / levels + _ROUNDING, "probability")


def _sums(names_P: NDArray[np.object_], entries: _Entries) -> Outcome:
    """Heads, tails and the mass that was cut off sum to 1, and no position without a target has an entry."""
    off_P = np.abs(entries.sums(entries.probs) + entries.ghost_P - 1) + entries.stray
    return _worst("target sums", names_P, off_P, _ROUNDING, "probability")


def _mean(entries: _Entries, logprobs_PV: NDArray[np.float64]) -> Outcome:
    """The mean of Σ -p̂ log p over positions is the mean of the entropy, up to the noise of drawing."""
    surprise_PV = -np.maximum(logprobs_PV, -1e3)
    entropy_P = (np.exp(logprobs_PV) * surprise_PV).sum(axis=1)
    off_P = entries.sums(entries.probs * surprise_PV[entries.rows, entries.ids]) - entropy_P
    deviation = math.sqrt(float((off_P**2).sum()))
    # Below the rounding of probabilities there is no noise to compare with.
    errors = abs(float(off_P.sum())) / max(deviation, _ROUNDING * math.sqrt(max(len(off_P), 1)))
    mean = float(off_P.mean()) if len(off_P) else 0.0
    return judged(
        "target mean",
        compared=len(off_P),
        unit="positions",
        difference=errors,
        bound=_STANDARD_ERRORS,
        measure="standard errors",
        detail=f"the cross-entropy of the targets is {mean:+.2g} nats from the entropy on average",
    )


def _statistics(
    names_P: NDArray[np.object_],
    sequences: Sequence[TokenSequence],
    rows: pa.Table,
    has_target: NDArray[np.bool_],
    logprobs_PV: NDArray[np.float64],
    settings: TargetSettings,
) -> Outcome:
    """Entropy and the log-probability of the real next token are the dense ones, rounded to steps."""
    probs_PV = np.exp(logprobs_PV)
    entropy_P = -(probs_PV * np.maximum(logprobs_PV, -1e3)).sum(axis=1)
    next_P = np.concatenate([s.input_ids[np.flatnonzero(s.has_target) + 1] for s in sequences])
    nll_P = -logprobs_PV[np.arange(len(next_P)), next_P]
    entropy_off_P = _off(rows["entropy_codes"], has_target, entropy_P, STEPS_PER_NAT)
    nll_off_P = _off(rows["nll_codes"], has_target, nll_P, settings.logprob_steps_per_nat)
    bound = 0.5 / min(STEPS_PER_NAT, settings.logprob_steps_per_nat) + _NATS_ROUNDING
    return _worst("statistics", names_P, np.maximum(entropy_off_P, nll_off_P), bound, "nats")


def _off(
    codes: pa.ChunkedArray, has_target: NDArray[np.bool_], nats_P: NDArray[np.float64], steps_per_nat: int
) -> NDArray[np.float64]:
    """How far decoded codes are from the values; a value beyond the top code may have that code."""
    values = codes.combine_chunks().flatten().fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64)
    top = _TOP_CODE / steps_per_nat
    return np.asarray(np.abs(values[has_target] / steps_per_nat - np.minimum(nats_P, top)))


def _worst(check: str, names_P: NDArray[np.object_], off_P: NDArray[np.float64], bound: float, measure: str) -> Outcome:
    worst = int(np.argmax(off_P)) if len(off_P) else 0
    return judged(
        check,
        compared=len(off_P),
        unit="positions",
        difference=float(off_P.max(initial=0.0)),
        bound=bound,
        measure=measure,
        detail=str(names_P[worst]) if len(off_P) else "",
    )


def _log_softmax(values_PV: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted_PV = values_PV - values_PV.max(axis=1, keepdims=True)
    return np.asarray(shifted_PV - np.log(np.exp(shifted_PV).sum(axis=1, keepdims=True)))
