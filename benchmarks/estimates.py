"""How far an estimate p̂ of a distribution p is from it: noise, bias and what rounding costs. Pure functions.

Shapes: P positions, V ids, E stored entries of all of them, H heads, D draws of the same positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Probabilities of some ids of P positions: rows, ids and probs, each [E]; an id stands once per row."""

    n_positions: int
    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    probs: NDArray[np.float64]


def decode(targets: CodedTargets, *, renormalise: bool = False) -> Estimate:
    """What targets say, duplicates of a tail added up; `renormalise` makes heads without tails sum to 1."""
    n_ids, n_heads = np.diff(targets.id_offsets), np.diff(targets.code_offsets)
    running = np.concatenate([[0], np.cumsum(targets.codes, dtype=np.int64)])
    coded_P = running[targets.code_offsets[1:]] - running[targets.code_offsets[:-1]]
    n_tails = n_ids - n_heads
    rows_E = np.repeat(np.arange(len(n_ids)), n_ids)
    probs_E = ((targets.levels - coded_P) / (targets.levels * np.maximum(n_tails, 1)))[rows_E]
    is_head_E = np.arange(len(rows_E)) - targets.id_offsets[:-1][rows_E] < n_heads[rows_E]
    unit_P = np.where((n_tails == 0) & renormalise, np.maximum(coded_P, 1), targets.levels)
    probs_E[is_head_E] = targets.codes / unit_P[rows_E[is_head_E]]
    return merge(len(n_ids), rows_E, targets.ids.astype(np.int64), probs_E)


def merge(
    n_positions: int, rows_E: NDArray[np.int64], ids_E: NDArray[np.int64], probs_E: NDArray[np.float64]
) -> Estimate:
    """An estimate from entries among which an id may stand more than once."""
    cells_E = rows_E << 32 | ids_E
    cells, place_E = np.unique(cells_E, return_inverse=True)
    probs = np.bincount(place_E, weights=probs_E, minlength=len(cells))
    return Estimate(n_positions, cells >> 32, cells & 0xFFFFFFFF, probs)


def squared_error(estimate: Estimate, probs_PV: torch.Tensor) -> NDArray[np.float64]:
    """‖p̂ - p‖² of each position, float64 [P]; `probs_PV` float32."""
    square_P = torch.linalg.vecdot(probs_PV, probs_PV).double().numpy()
    real_E = probs_PV[torch.from_numpy(estimate.rows), torch.from_numpy(estimate.ids)].double().numpy()
    change_E = estimate.probs * (estimate.probs - 2 * real_E)
    return square_P + np.bincount(estimate.rows, weights=change_E, minlength=estimate.n_positions)


def squared_bias(draws: Sequence[Estimate], probs_PV: torch.Tensor) -> NDArray[np.float64]:
    """An unbiased estimate of ‖E p̂ - p‖² of each position from D >= 2 independent draws, float64 [P].

    (‖Σ e_d‖² - Σ ‖e_d‖²) / (D (D - 1)) with e_d = p̂_d - p: zero on average if and only if every id is without bias.
    """
    n = len(draws)
    columns = (np.concatenate([getattr(draw, name) for draw in draws]) for name in ("rows", "ids", "probs"))
    total = merge(draws[0].n_positions, *columns)
    mean = Estimate(total.n_positions, total.rows, total.ids, total.probs / n)
    alone_P = np.sum([squared_error(draw, probs_PV) for draw in draws], axis=0)
    return (n * n * squared_error(mean, probs_PV) - alone_P) / (n * (n - 1))


def rounding_divergence(targets: CodedTargets, probs_PV: torch.Tensor) -> NDArray[np.float64]:
    """KL in nats of the heads' codes, and one bucket for the rest, from their exact probabilities, float64 [P].

    KL(rounded ‖ exact): finite where a code is 0, which drops the head.
    """
    n_heads = np.diff(targets.code_offsets)
    rows_H = np.repeat(np.arange(len(n_heads)), n_heads)
    first_H = targets.id_offsets[:-1][rows_H]
    ids_H = targets.ids[first_H + np.arange(len(rows_H)) - targets.code_offsets[:-1][rows_H]]
    real_H = probs_PV[torch.from_numpy(rows_H), torch.from_numpy(ids_H.astype(np.int64))].double().numpy()
    rounded_H = targets.codes / targets.levels
    n = len(n_heads)
    rest_P = np.maximum(1 - np.bincount(rows_H, weights=real_H, minlength=n), 1e-9)
    rounded_rest_P = np.maximum(1 - np.bincount(rows_H, weights=rounded_H, minlength=n), 0)
    heads_P = np.bincount(rows_H, weights=rounded_H * np.log(rounded_H / real_H), minlength=n)
    return heads_P + rounded_rest_P * np.log(np.maximum(rounded_rest_P, 1e-300) / rest_P)


def mean_and_error(values_P: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of independent values, and its standard error."""
    return float(values_P.mean()), float(values_P.std(ddof=1) / np.sqrt(len(values_P)))


def value_at(x: float, points: Sequence[tuple[float, float]]) -> float:
    """y at x through (x, y) points, straight between neighbours in log over log, and so at the ends beyond them."""
    xs, ys = (np.log(values) for values in zip(*sorted(points), strict=True))
    at = int(np.clip(np.searchsorted(xs, np.log(x)), 1, len(xs) - 1))
    slope = (ys[at] - ys[at - 1]) / (xs[at] - xs[at - 1])
    return float(np.exp(ys[at - 1] + slope * (np.log(x) - xs[at - 1])))


def angle_degrees(dot: float, one: float, other: float) -> float:
    """Angle between two vectors from their dot product and their norms."""
    return float(np.degrees(np.arccos(np.clip(dot / (one * other), -1, 1))))
