"""In which order the rows of a row set are read: a function of (seed, epoch, row set) and of nothing else.

Units are permuted and joined to blocks that fit in memory; the rows of a block are permuted, then brought into groups
of similar length, so that batches need little padding, and the groups are permuted. Ranks, workers and batch size
never enter: they only cut the one order into pieces.

Shapes: U units; R rows of one block; M drawn rows (R, or as many as the sampling weights ask for).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from logitlake.pipeline.targets.counter_random import document_keys, uniforms
from logitlake.storage.errors import SettingsError

# Consecutive rows of similar length; a multiple of most batch sizes.
LENGTH_GROUP = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Keys every random number of one epoch over one row set."""

    seed: int
    epoch: int
    row_set_id: str

    def uniforms(self, what: str, count: int) -> np.ndarray:
        """`count` independent uniforms in [0, 1) for one purpose, as float64."""
        keys = document_keys(self.seed, [f"{self.row_set_id}:{self.epoch}:{what}"])
        return uniforms(keys, np.arange(count), 1)[:, 0]

    def permutation(self, what: str, count: int) -> np.ndarray:
        """A random order of `count` things."""
        return np.argsort(self.uniforms(what, count), kind="stable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Units that are read together: `units` by index, ascending; rows [first, first + n_rows) of the epoch's order."""

    number: int
    units: tuple[int, ...]
    first: int
    n_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitWeights:
    """Cumulated sampling weights at the bounds of the units, scaled so that a row of average weight is worth 1.

    `bounds` float64 [U+1]: row i of the whole is worth the slice between two cumulated weights; a row's copies are the
    whole numbers in its slice moved by one uniform per epoch (systematic sampling). So a row appears w_i/mean(w) times
    on average, never more than one away from it, and an epoch has as many rows as the row set.
    """

    bounds: np.ndarray
    scale: float

    @classmethod
    def of(cls, unit_sums: Sequence[float], n_rows: int) -> "UnitWeights":
        """From the sum of the weights of each unit."""
        total = float(np.sum(unit_sums))
        if not total > 0:
            raise SettingsError("training.weight: the weights of all rows are 0, so there is nothing to train on")
        bounds = np.concatenate([np.zeros(1), np.cumsum(unit_sums)]) * (n_rows / total)
        bounds[-1] = n_rows
        return cls(bounds=bounds, scale=n_rows / total)

    def rows_drawn(self, offset: float) -> np.ndarray:
        """How many rows each unit gives, int64 [U]."""
        return np.diff(np.floor(self.bounds + offset).astype(np.int64))

    def copies(self, unit: int, weights_R: np.ndarray, offset: float) -> np.ndarray:
        """How often each row of one unit appears, int64 [R]."""
        low, high = self.bounds[unit], self.bounds[unit + 1]
        inner = np.minimum(low + np.cumsum(weights_R) * self.scale, high)
        inner[-1:] = high
        return np.diff(np.floor(np.concatenate([[low], inner]) + offset).astype(np.int64))


def plan_blocks(unit_rows: np.ndarray, unit_tokens: np.ndarray, *, block_tokens: int, draw: Draw) -> tuple[Block, ...]:
    """Permute the units and join them to blocks of at most `block_tokens` tokens; a larger unit is its own block.

    `unit_rows` int64 [U]: rows that each unit gives; `unit_tokens` int64 [U]: tokens that reading it brings.
    """
    blocks, first = [], 0
    for number, units in enumerate(_grouped(draw.permutation("units", len(unit_rows)), unit_tokens, block_tokens)):
        n_rows = int(unit_rows[units].sum())
        blocks.append(Block(number=number, units=tuple(sorted(units)), first=first, n_rows=n_rows))
        first += n_rows
    return tuple(blocks)


def order_rows(lengths_R: np.ndarray, copies_R: np.ndarray | None, *, block: int, draw: Draw) -> np.ndarray:
    """The order of one block's rows, int64 [M] of row numbers."""
    rows_M = np.arange(len(lengths_R)) if copies_R is None else np.repeat(np.arange(len(lengths_R)), copies_R)
    rows_M = rows_M[draw.permutation(f"rows {block}", len(rows_M))]
    rows_M = rows_M[np.argsort(lengths_R[rows_M], kind="stable")]
    groups = [rows_M[begin : begin + LENGTH_GROUP] for begin in range(0, len(rows_M), LENGTH_GROUP)]
    if not groups:
        return rows_M
    return np.concatenate([groups[group] for group in draw.permutation(f"groups {block}", len(groups))])


def in_order(sizes: np.ndarray, limit: int) -> Iterator[list[int]]:
    """Units in their own order, in runs of at most `limit` in size; a larger unit is its own run."""
    return _grouped(np.arange(len(sizes)), sizes, limit)


def _grouped(order: np.ndarray, tokens: np.ndarray, limit: int) -> Iterator[list[int]]:
    group: list[int] = []
    held = 0
    for unit in order.tolist():
        if group and held + tokens[unit] > limit:
            yield group
            group, held = [], 0
        group.append(unit)
        held += int(tokens[unit])
    if group:
        yield group
