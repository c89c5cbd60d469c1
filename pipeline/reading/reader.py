"""Reader of one row set: batches of targets, for one rank of many, from any point of any epoch.

The order is that of row_order.py, steps.py cuts it into optimiser steps, and shares.py shares the rows of a step among
ranks. Each row is seen exactly once in an epoch, in the same step, whatever the number of ranks. Memory holds three
blocks of units at most, or the blocks of one step if it is longer, however many shards there are.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from logitlake.pipeline.reading.background import in_background
from logitlake.pipeline.reading.batches import TargetBatch, batch_of_lines
from logitlake.pipeline.reading.blocks import EpochRows, Fetch, Segment
from logitlake.pipeline.reading.local_copy import LocalCopy
from logitlake.pipeline.reading.shares import Share, share_sequences, share_tokens
from logitlake.pipeline.reading.steps import EvenSteps, Position, Steps, StepsOfSequences, ends_of_whole_steps
from logitlake.pipeline.targets.decoding import CutMass
from logitlake.storage.errors import MismatchError
from logitlake.storage.row_sets.row_set import RowSet

BLOCK_TOKENS = 2_000_000
BATCH_TOKENS = 8192
_PREFETCHED_BATCHES = 4
_STEP_SIZES = ("step_tokens", "step_sequences")


class RowSetReader:
    """Iterates over one epoch of a row set at a time, as TargetBatch on the CPU.

    A step has `step_tokens` tokens on average over all ranks, and the same number of targets as the others; its batches
    have at most `batch_tokens` tokens with padding. With `packing` several short sequences stand in one line. Or, with
    `batch_sequences` in place of `step_tokens`, a step is `accumulation` batches of so many sequences on each rank.
    Every rank gets the same number of batches in a step, some of them without targets. `read` is called by one thread
    at a time; its errors come out of the iteration. A `local_copy` changes neither order nor content.

    Each `iter` goes on from the reader's state and moves it with the last batch of every step; at the end of an epoch
    the state is the start of the next.
    """

    def __init__(
        self,
        row_set: RowSet,
        read: Fetch,
        *,
        batch_sequences: int | None = None,
        accumulation: int = 1,
        step_tokens: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        packing: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        cut_mass: CutMass = "renormalise",
        block_tokens: int = BLOCK_TOKENS,
        pad_id: int = 0,
        local_copy: LocalCopy | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), found {rank}")
        if (batch_sequences is None) == (step_tokens is None):
            raise ValueError("set either step_tokens or batch_sequences")
        if packing and step_tokens is None:
            raise ValueError("packing needs step_tokens")
        if min(batch_sequences or 1, step_tokens or 1, batch_tokens, accumulation) < 1:
            raise ValueError("step_tokens, batch_tokens, batch_sequences and accumulation must be at least 1")
        self.row_set = row_set
        self.world_size = world_size
        self.packing = packing
        self._batch_sequences = batch_sequences
        self._batch_tokens = batch_tokens
        self._accumulation = accumulation
        self._step_tokens = step_tokens
        self._step_sequences = None if batch_sequences is None else batch_sequences * accumulation * world_size
        self._seed = seed
        self._rank = rank
        self._pad_id = pad_id
        self._rows = EpochRows(
            row_set, read, seed=seed, cut_mass=cut_mass, block_tokens=block_tokens, local_copy=local_copy
        )
        self._epoch = 0
        self._position = Position()

    def __len__(self) -> int:
        """Steps of one epoch. With `batch_sequences` and no accumulation each of them is one batch."""
        return self._steps().n_steps

    def longest_sequence(self) -> int:
        """Tokens of the longest row. Reads one column of all rows."""
        return self._rows.longest()

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; nothing happens if the state is inside it already."""
        if epoch != self._epoch:
            self._epoch, self._position = epoch, Position()

    def state_dict(self) -> dict[str, Any]:
        """Where the next step starts, on any number of ranks; inside a step, where that step starts."""
        size = {"step_tokens": self._step_tokens, "step_sequences": self._step_sequences}
        return {
            "row_set_id": self.row_set.row_set_id,
            "seed": self._seed,
            "epoch": self._epoch,
            "step": self._position.step,
            "row": self._position.row,
            "targets": self._position.targets,
            **{name: value for name, value in size.items() if value is not None},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a state that `state_dict` gave, on any number of ranks: exactly the rows that are left follow.

        Steps keep their size. With `batch_sequences` that is the number of sequences of the state, so that fewer ranks
        take more batches a step. Raises MismatchError for the state of another row set or seed, or of steps of another
        number of tokens.
        """
        state = _of_an_older_version(state, self._accumulation)
        for name, found in (("row_set_id", self.row_set.row_set_id), ("seed", self._seed)):
            if state[name] != found:
                raise MismatchError(f"the reader's state is of {name} {state[name]}, this reader's is {found}")
        same_way = ("step_sequences" in state) == (self._step_sequences is not None)
        if not same_way or state.get("step_tokens") != self._step_tokens:
            before, now = (
                ", ".join(f"{name} {values[name]}" for name in _STEP_SIZES if name in values)
                for values in (state, self.state_dict())
            )
            raise MismatchError(
                f"the reader's state counts steps of {before}, this reader's are of {now}: resume with the settings of "
                "before, or start again"
            )
        self._step_sequences = state.get("step_sequences")
        self._epoch = state["epoch"]
        self._position = Position(step=state["step"], row=state["row"], targets=state["targets"])

    def __iter__(self) -> Iterator[TargetBatch]:
        batches = partial(self._batches, self._epoch, self._position)
        for batch, following in in_background(batches, depth=_PREFETCHED_BATCHES, name="row set reader"):
            if batch.ends_step:
                self._position = following
            yield batch
        self._epoch, self._position = self._epoch + 1, Position()

    def _steps(self) -> Steps:
        n_rows = self.row_set.n_sequences
        if self._step_sequences is not None:
            return StepsOfSequences(sequences=self._step_sequences, n_rows=n_rows)
        assert self._step_tokens is not None
        n_tokens, n_targets = self._rows.mean_totals()
        return EvenSteps.of(self._step_tokens, n_rows=n_rows, n_tokens=n_tokens, n_targets=n_targets)

    def _batches(self, epoch: int, start: Position) -> Iterator[tuple[TargetBatch, Position]]:
        """Batches of this rank, each with the position after its step."""
        steps, waiting = self._steps(), Segment([], [])
        if isinstance(steps, EvenSteps):
            steps = replace(steps, n_targets=max(1, self._rows.targets_of(epoch)))
        for segment in self._rows.segments(epoch, start.row):
            waiting += segment
            begin = 0
            for end in ends_of_whole_steps(steps.numbers(waiting.n_targets, start)):
                rows = waiting.part(begin, end)
                begin, start = end, start.after(rows.n_targets)
                yield from ((batch, start) for batch in self._own_batches(rows))
            waiting = waiting.part(begin, len(waiting.rows))
        if waiting.rows:
            start = start.after(waiting.n_targets)
            yield from ((batch, start) for batch in self._own_batches(waiting))

    def _own_batches(self, rows: Segment) -> Iterator[TargetBatch]:
        """This rank's share of a step."""
        share, n_targets = self._shares(rows)[self._rank], sum(rows.n_targets)
        for number, lines in enumerate(share, 1):
            yield batch_of_lines(
                [[rows.rows[row] for row in line] for line in lines],
                step_targets=n_targets,
                ends_step=number == len(share),
                pad_id=self._pad_id,
            )

    def _shares(self, rows: Segment) -> list[Share]:
        if self._batch_sequences is not None:
            return share_sequences(len(rows.rows), ranks=self.world_size, batch_sequences=self._batch_sequences)
        lengths = [decoded.places[row + 1] - decoded.places[row] for decoded, row in rows.rows]
        return share_tokens(lengths, ranks=self.world_size, batch_tokens=self._batch_tokens, packing=self.packing)


def _of_an_older_version(state: dict[str, Any], accumulation: int) -> dict[str, Any]:
    """A state that counted batches of all ranks, as one that counts steps; the checkpoint was made after a step."""
    if "global_batch_sequences" not in state:
        return state
    row = state["batch"] * state["global_batch_sequences"]
    step_sequences = state["global_batch_sequences"] * accumulation
    position = {"step": row // step_sequences, "row": row, "targets": 0}
    return state | position | {"step_sequences": step_sequences}
