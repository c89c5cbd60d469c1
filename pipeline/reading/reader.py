"""Reader of one row set: batches of targets, for one rank of many, from any point of any epoch.

The order is that of row_order.py; global batch k takes the next `world_size · batch_sequences` rows of it and each rank
an equal slice. The last batch of an epoch is short and spread over the ranks, so each row is seen exactly once whatever
their number; a rank left without rows gets a batch without targets. Memory holds three blocks of units at most, however
many shards there are.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from logitlake.pipeline.reading.background import in_background
from logitlake.pipeline.reading.batches import TargetBatch, batch_of
from logitlake.pipeline.reading.blocks import EpochRows, Fetch, Segment
from logitlake.pipeline.reading.local_copy import LocalCopy
from logitlake.pipeline.targets.decoding import CutMass
from logitlake.storage.errors import MismatchError
from logitlake.storage.row_sets.row_set import RowSet

BLOCK_TOKENS = 2_000_000
_PREFETCHED_BATCHES = 4


class RowSetReader:
    """Iterates over one epoch of a row set at a time, as TargetBatch on the CPU.

    `accumulation` rounds the number of batches of an epoch up to a multiple of itself with batches without targets, so
    that every optimiser step has the same number of them. `read` is called by one background thread at a time, never
    by the caller's; its errors come out of the iteration. A `local_copy` changes neither order nor content. Each `iter`
    goes on from the reader's state and moves it with every batch handed out; at the end of an epoch the state is the
    start of the next.
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
        local_copy: LocalCopy | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), found {rank}")
        if batch_sequences < 1 or accumulation < 1:
            raise ValueError("batch_sequences and accumulation must be at least 1")
        self.row_set = row_set
        self.batch_sequences = batch_sequences
        self.world_size = world_size
        self._seed = seed
        self._rank = rank
        self._accumulation = accumulation
        self._pad_id = pad_id
        self._rows = EpochRows(
            row_set, read, seed=seed, cut_mass=cut_mass, block_tokens=block_tokens, local_copy=local_copy
        )
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
        waiting = Segment([], [])
        for segment in self._rows.segments(epoch, first_batch * self._global_batch):
            waiting += segment
            whole = len(waiting.rows) // self._global_batch * self._global_batch
            for begin in range(0, whole, self._global_batch):
                yield self._own_share(waiting.part(begin, begin + self._global_batch))
                given += 1
            waiting = waiting.part(whole, len(waiting.rows))
        if waiting.rows:
            yield self._own_share(waiting)
            given += 1
        for _ in range(given, len(self)):
            yield batch_of([], pad_id=self._pad_id)

    def _own_share(self, rows: Segment) -> TargetBatch:
        """This rank's slice of a global batch."""
        begin, end = (len(rows.rows) * rank // self.world_size for rank in (self._rank, self._rank + 1))
        return batch_of(rows.rows[begin:end], step_targets=sum(rows.n_targets), pad_id=self._pad_id)
