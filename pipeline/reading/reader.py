"""Reader of one row set: batches of targets, for one rank of many, from any point of any epoch.

The order is that of row_order.py; global batch k takes the next `world_size · batch_sequences` rows of it and each rank
an equal slice. The last batch of an epoch is short and spread over the ranks, so each row is seen exactly once whatever
their number; a rank left without rows gets a batch without targets. Memory holds three blocks of units at most, however
many shards there are.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from logitlake.pipeline.reading.background import in_background
from logitlake.pipeline.reading.batches import TARGET_COLUMNS, TargetBatch, batch_of
from logitlake.pipeline.reading.row_order import Block, Draw, UnitWeights, in_order, order_rows, plan_blocks
from logitlake.pipeline.targets.decoding import CutMass, DecodedTable
from logitlake.storage.errors import LakeError, MismatchError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import RowSet, fetch

# (unit ids, columns) → their rows ordered by (unit_id, doc_id, window), as storage.row_sets.row_set.fetch gives them.
Fetch = Callable[[Sequence[str], Sequence[str]], pa.Table]

BLOCK_TOKENS = 2_000_000
_WEIGHTS_AT_ONCE = 1_000_000
_PREFETCHED_BATCHES = 4


def lake_fetch(lake: Lake, row_set: RowSet) -> Fetch:
    """A `Fetch` that any thread may call, for as long as `lake` is open.

    A lake that is attached and not asked holds no lock: upkeep never waits for a reader.
    """
    own = threading.local()

    def read(unit_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        if not hasattr(own, "lake"):
            own.lake = lake.for_thread()
        return fetch(own.lake, row_set, unit_ids, columns)

    return read


@dataclass(frozen=True, slots=True)
class _Segment:
    """Some rows of one block, in reading order."""

    rows: DecodedTable
    n_targets: np.ndarray
    order: np.ndarray

    def part(self, begin: int, end: int) -> "_Segment":
        return _Segment(self.rows, self.n_targets, self.order[begin:end])


class RowSetReader:
    """Iterates over one epoch of a row set at a time, as TargetBatch on the CPU.

    `accumulation` rounds the number of batches of an epoch up to a multiple of itself with batches without targets, so
    that every optimiser step has the same number of them. `read` is called by one background thread at a time, never
    by the caller's; its errors come out of the iteration. Each `iter` goes on from the reader's state and moves it with
    every batch handed out; at the end of an epoch the state is the start of the next.
    """

    def __init__(
        self,
        row_set: RowSet,
        read: Fetch,
        *,
        batch_sequences: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        cut_mass: CutMass = "renormalise",
        block_tokens: int = BLOCK_TOKENS,
        pad_id: int = 0,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), found {rank}")
        if batch_sequences < 1 or accumulation < 1:
            raise ValueError("batch_sequences and accumulation must be at least 1")
        self.row_set = row_set
        self.batch_sequences = batch_sequences
        self.world_size = world_size
        self._read_rows = read
        self._seed = seed
        self._rank = rank
        self._accumulation = accumulation
        self._cut_mass = cut_mass
        self._block_tokens = block_tokens
        self._pad_id = pad_id
        self._unit_ids = row_set.units["unit_id"].to_pylist()
        self._unit_rows = row_set.units["n_sequences"].to_numpy().astype(np.int64)
        self._unit_tokens = row_set.units["n_tokens"].to_numpy().astype(np.int64)
        self._weights: UnitWeights | None = None
        self._epoch = 0
        self._batch = 0

    def __len__(self) -> int:
        """Batches of one epoch, for every rank."""
        real = -(-self.row_set.n_sequences // self._global_batch)
        return -(-real // self._accumulation) * self._accumulation

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; nothing happens if the state is inside it already."""
        if epoch != self._epoch:
            self._epoch, self._batch = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch stands."""
        return {
            "row_set_id": self.row_set.row_set_id,
            "seed": self._seed,
            "epoch": self._epoch,
            "batch": self._batch,
            "global_batch_sequences": self._global_batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a state that `state_dict` gave, on any number of ranks.

        Raises MismatchError for the state of another row set or seed, or one that falls inside a batch of today's size.
        """
        for name, found in (("row_set_id", self.row_set.row_set_id), ("seed", self._seed)):
            if state[name] != found:
                raise MismatchError(f"the reader's state is of {name} {state[name]}, this reader's is {found}")
        batch, inside = divmod(state["batch"] * state["global_batch_sequences"], self._global_batch)
        if inside:
            raise MismatchError(
                f"the state stands after {state['batch']} batches of {state['global_batch_sequences']} sequences: that "
                f"is no multiple of today's {self._global_batch}: resume with the batch size of before"
            )
        self._epoch, self._batch = state["epoch"], batch

    def __iter__(self) -> Iterator[TargetBatch]:
        batches = partial(self._batches, self._epoch, self._batch)
        for batch in in_background(batches, depth=_PREFETCHED_BATCHES, name="row set reader"):
            self._batch += 1
            yield batch
        self._epoch, self._batch = self._epoch + 1, 0

    @property
    def _global_batch(self) -> int:
        return self.batch_sequences * self.world_size

    def _batches(self, epoch: int, first_batch: int) -> Iterator[TargetBatch]:
        given = first_batch
        waiting: list[_Segment] = []
        for segment in self._segments(epoch, first_batch * self._global_batch):
            waiting.append(segment)
            while _count(waiting) >= self._global_batch:
                batch, waiting = _split(waiting, self._global_batch)
                yield self._own_share(batch)
                given += 1
        if _count(waiting):
            yield self._own_share(waiting)
            given += 1
        for _ in range(given, len(self)):
            yield batch_of([], pad_id=self._pad_id)

    def _segments(self, epoch: int, skip: int) -> Iterator[_Segment]:
        """The epoch's rows from row `skip` on, a block at a time; the next block is read while one is worked on."""
        draw = Draw(seed=self._seed, epoch=epoch, row_set_id=self.row_set.row_set_id)
        offset, drawn = 0.0, self._unit_rows
        if self.row_set.weight is not None:
            offset = float(draw.uniforms("weights", 1)[0])
            drawn = self._unit_weights().rows_drawn(offset)
        blocks = plan_blocks(drawn, self._unit_tokens, block_tokens=self._block_tokens, draw=draw)
        wanted = [block for block in blocks if block.n_rows and block.first + block.n_rows > skip]
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="row set fetch") as loader:
            coming: Future[_Segment] | None = None
            for number, block in enumerate(wanted):
                segment = (coming or loader.submit(self._read, block, draw, offset)).result()
                following = wanted[number + 1 : number + 2]
                coming = loader.submit(self._read, following[0], draw, offset) if following else None
                yield segment.part(max(skip - block.first, 0), block.n_rows)

    def _read(self, block: Block, draw: Draw, offset: float) -> _Segment:
        rows = self._rows_of(block.units, TARGET_COLUMNS)
        copies = None
        if self.row_set.weight is not None:
            bounds = np.cumsum(self._unit_rows[list(block.units)])[:-1]
            weights = np.split(rows["weight"].to_numpy(), bounds)
            pairs = zip(block.units, weights, strict=True)
            copies = np.concatenate([self._unit_weights().copies(unit, own, offset) for unit, own in pairs])
        order = order_rows(rows["n_tokens"].to_numpy(), copies, block=block.number, draw=draw)
        return _Segment(
            DecodedTable.of(rows, cut_mass=self._cut_mass), rows["n_targets"].to_numpy().astype(np.int64), order
        )

    def _rows_of(self, units: Sequence[int], columns: Sequence[str]) -> pa.Table:
        unit_ids = [self._unit_ids[unit] for unit in units]
        rows = self._read_rows(unit_ids, columns)
        expected = int(self._unit_rows[list(units)].sum())
        if rows.num_rows != expected:
            raise LakeError(
                f"units {', '.join(unit_ids[:3])}…: the row set has {expected} rows of them, the lake has "
                f"{rows.num_rows}: documents were forgotten since; start again, and the row set is found anew"
            )
        return rows

    def _unit_weights(self) -> UnitWeights:
        """Sums of the sampling weights of every unit: one pass over that one column, the first time it is needed."""
        if self._weights is None:
            sums: list[float] = []
            for units in in_order(self._unit_rows, _WEIGHTS_AT_ONCE):
                weights = _checked_weights(self._rows_of(units, ["n_tokens"]))
                parts = np.split(weights, np.cumsum(self._unit_rows[units])[:-1])
                sums.extend(float(part.sum()) for part in parts)
            self._weights = UnitWeights.of(sums, self.row_set.n_sequences)
        return self._weights

    def _own_share(self, segments: list[_Segment]) -> TargetBatch:
        """This rank's slice of a global batch."""
        total = _count(segments)
        begin, end = (total * rank // self.world_size for rank in (self._rank, self._rank + 1))
        own, _ = _split(_split(segments, begin)[1], end - begin)
        step_targets = sum(int(segment.n_targets[segment.order].sum()) for segment in segments)
        rows = [row for segment in own for row in segment.rows.rows(segment.order)]
        batch = batch_of(rows, pad_id=self._pad_id)
        return replace(batch, step_targets=step_targets)


def _count(segments: list[_Segment]) -> int:
    return sum(len(segment.order) for segment in segments)


def _split(segments: list[_Segment], count: int) -> tuple[list[_Segment], list[_Segment]]:
    """The first `count` rows, and the others."""
    head, tail = [], []
    for segment in segments:
        taken = min(count, len(segment.order))
        count -= taken
        if taken:
            head.append(segment.part(0, taken))
        if taken < len(segment.order):
            tail.append(segment.part(taken, len(segment.order)))
    return head, tail


def _checked_weights(rows: pa.Table) -> np.ndarray:
    column = rows["weight"]
    weights = column.to_numpy()
    if column.null_count or not np.isfinite(weights).all() or (weights < 0).any():
        raise SettingsError("training.weight: every row needs a finite weight of at least 0; use coalesce and greatest")
    return weights
