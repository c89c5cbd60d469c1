"""Arrays of one batch to rows of the cache (CAPTURED), built from buffers, with no Python object per token.

Shapes: S sequences, L tokens of all of them, P positions with a target in row-major order, E entries, H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitlake.pipeline.targets.sparsifiers.blocks import Statistics
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets, offsets_of
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.storage.schema.sequences import CAPTURED, STEPS_PER_NAT, complete_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class RowOrigin:
    """What the rows of a batch have in common, or one entry per sequence: where they come from."""

    recipe_id: str
    corpora: Sequence[str]
    sources: Sequence[str]


def encode_rows(
    sequences: Sequence[TokenSequence],
    targets: CodedTargets,
    statistics: Statistics,
    origin: RowOrigin,
    *,
    nll_steps_per_nat: int = STEPS_PER_NAT,
) -> pa.Table:
    """One row per sequence. The P positions of `targets` and `statistics` are those with `has_target`, in order.

    Positions without a target get empty lists and null statistics; an entropy that is not known is null everywhere. The
    columns of a generated trace are null.
    ValueError if the counts do not agree.
    """
    wanted_L = np.concatenate([sequence.has_target for sequence in sequences])
    counts_S = np.array([int(sequence.has_target.sum()) for sequence in sequences])
    n_targets = len(targets.id_offsets) - 1
    if not counts_S.sum() == n_targets == len(statistics.nll):
        raise ValueError(f"positions: expected {counts_S.sum()} targets, found {n_targets}")
    entropy_P = statistics.entropy
    lengths_S = np.array([len(sequence.input_ids) for sequence in sequences])
    bounds_S1 = _offset_array(offsets_of(lengths_S))
    input_ids_L = np.concatenate([sequence.input_ids for sequence in sequences]).astype(np.int32, copy=False)
    columns = {
        "recipe_id": pa.array([origin.recipe_id] * len(sequences), pa.string()),
        "doc_id": pa.array([sequence.doc_id for sequence in sequences], pa.string()),
        "corpus": pa.array(origin.corpora, pa.string()),
        "source": pa.array(origin.sources, pa.string()),
        "window_index": pa.array([sequence.window for sequence in sequences], pa.int32()),
        "start": pa.array([sequence.start for sequence in sequences], pa.int32()),
        "n_tokens": pa.array(lengths_S, pa.int32()),
        "n_targets": pa.array(counts_S, pa.int32()),
        "levels": pa.array(np.full(len(sequences), targets.levels), pa.int32()),
        "input_ids": pa.ListArray.from_arrays(bounds_S1, pa.array(input_ids_L)),
        "target_ids": pa.ListArray.from_arrays(bounds_S1, _lists(wanted_L, targets.id_offsets, targets.ids)),
        "head_codes": pa.ListArray.from_arrays(bounds_S1, _lists(wanted_L, targets.code_offsets, targets.codes)),
        "entropy_codes": pa.ListArray.from_arrays(bounds_S1, _nullable(wanted_L, entropy_P, STEPS_PER_NAT)),
        "nll_codes": pa.ListArray.from_arrays(bounds_S1, _nullable(wanted_L, statistics.nll, nll_steps_per_nat)),
        "mean_entropy": _means(entropy_P, counts_S),
        "mean_nll": _means(statistics.nll, counts_S),
    }
    if nll_steps_per_nat != STEPS_PER_NAT:
        columns["nll_steps_per_nat"] = pa.array(np.full(len(sequences), nll_steps_per_nat), pa.int32())
    return complete_rows(pa.table(columns), CAPTURED)


def _lists(wanted_L: NDArray[np.bool_], offsets_P1: NDArray[np.int64], values: NDArray[np.generic]) -> pa.ListArray:
    """CSR over positions with a target as one list per token, empty where there is none."""
    counts_L = np.zeros(len(wanted_L), np.int64)
    counts_L[wanted_L] = np.diff(offsets_P1)
    return pa.ListArray.from_arrays(_offset_array(offsets_of(counts_L)), pa.array(values))


def _offset_array(offsets: NDArray[np.int64]) -> pa.Array:
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"entries: expected at most 2^31 - 1 in a batch, found {offsets[-1]}; lower batch_tokens")
    return pa.array(offsets.astype(np.int32))


def _nullable(wanted_L: NDArray[np.bool_], nats_P: NDArray[np.float64] | None, steps_per_nat: int) -> pa.Array:
    if nats_P is None:
        return pa.nulls(len(wanted_L), pa.uint16())
    codes_L = np.zeros(len(wanted_L), np.uint16)
    codes_L[wanted_L] = statistic_codes(nats_P, steps_per_nat)
    return pa.array(codes_L, mask=~wanted_L)


def _means(nats_P: NDArray[np.float64] | None, counts_S: NDArray[np.int64]) -> pa.Array:
    if nats_P is None:
        return pa.nulls(len(counts_S), pa.float32())
    return pa.array(segment_means(nats_P, counts_S).astype(np.float32), mask=counts_S == 0)


_TOP = np.iinfo(np.uint16).max


def statistic_codes(nats_P: NDArray[np.floating], steps_per_nat: int = STEPS_PER_NAT) -> NDArray[np.uint16]:
    """Codes `uint16[P]` of non-negative values in nats: off by at most half a step, except above 65,535 steps.

    Infinity (the teacher gave the real next token no probability) becomes the top code. ValueError for NaN.
    """
    if np.isnan(nats_P).any():
        raise ValueError("statistics: NaN has no code")
    return np.clip(np.rint(nats_P * steps_per_nat), 0, _TOP).astype(np.uint16)


def segment_means(values_P: NDArray[np.float64], counts_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of each run of `counts_N[i]` values; NaN where a run is empty. An infinite value makes its mean infinite."""
    offsets = np.concatenate(([0], np.cumsum(counts_N)))
    means = np.full(len(counts_N), np.nan)
    filled = counts_N > 0
    if filled.any():
        means[filled] = np.add.reduceat(values_P, offsets[:-1][filled]) / counts_N[filled]
    return means
