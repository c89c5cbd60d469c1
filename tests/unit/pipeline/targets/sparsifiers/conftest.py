"""The meaning of a target, spelled out: what every test of a sparsifier compares with."""

from collections.abc import Callable

import numpy as np
import pytest

from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets


def _dense(targets: CodedTargets, vocabulary: int) -> np.ndarray:
    n = len(targets.id_offsets) - 1
    dense = np.zeros((n, vocabulary))
    for p in range(n):
        ids = targets.ids[targets.id_offsets[p] : targets.id_offsets[p + 1]]
        codes = targets.codes[targets.code_offsets[p] : targets.code_offsets[p + 1]].astype(float)
        tails = ids[len(codes) :]
        dense[p, ids[: len(codes)]] = codes / targets.levels
        if len(tails):
            np.add.at(dense[p], tails, (1 - codes.sum() / targets.levels) / len(tails))
    return dense


@pytest.fixture
def dense() -> Callable[[CodedTargets, int], np.ndarray]:
    """`p̂[P, V]` of decoded targets, one position at a time."""
    return _dense
