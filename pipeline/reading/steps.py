"""Where the order of an epoch is cut into optimiser steps: a function of the rows in it and of the size of a step.

Ranks and their batches never enter, so a training goes on with the same steps on another number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The start of a step: its number in the epoch, its first row, and the targets of all rows before it."""

    step: int = 0
    row: int = 0
    targets: int = 0

    def after(self, n_targets: Sequence[int]) -> "Position":
        """The start of the step after the one with these rows."""
        return Position(step=self.step + 1, row=self.row + len(n_targets), targets=self.targets + sum(n_targets))


class Steps(Protocol):
    """A way to cut an epoch into `n_steps` steps."""

    @property
    def n_steps(self) -> int: ...

    def numbers(self, n_targets: Sequence[int], start: Position) -> list[int]:
        """The step of each row, from the rows' targets; the first of them is the first row of the step at `start`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsOfSequences:
    """Steps of so many sequences, whatever they hold; the last one has what is left."""

    sequences: int
    n_rows: int

    @property
    def n_steps(self) -> int:
        return -(-self.n_rows // self.sequences)

    def numbers(self, n_targets: Sequence[int], start: Position) -> list[int]:
        return [(start.row + i) // self.sequences for i in range(len(n_targets))]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvenSteps:
    """Steps of equal weight: each has the same share of the epoch's targets, to within half a row at either end.

    A row belongs to the step that its middle target falls into. No step is without rows: steps are left out by no row,
    however many targets it has, and at the end of the epoch each of the last rows gets a step if there are no more rows
    than steps. Rows longer than a step make some steps longer and those after them shorter: a step of tokens should
    hold several of the longest rows. Of rows drawn by weight, `n_steps` is that of the mean epoch, and `n_targets` that
    of the epoch that is cut.
    """

    n_steps: int
    n_rows: int
    n_targets: int

    @classmethod
    def of(cls, step_tokens: int, *, n_rows: int, n_tokens: int, n_targets: int) -> "EvenSteps":
        """As many steps as bring their mean nearest to `step_tokens` tokens: targets need not be as many as tokens."""
        n_steps = min(max(1, round(n_tokens / step_tokens)), max(1, n_rows))
        return cls(n_steps=n_steps, n_rows=n_rows, n_targets=max(1, n_targets))

    def numbers(self, n_targets: Sequence[int], start: Position) -> list[int]:
        numbers, step, before = [], start.step - 1, start.targets
        for row, count in enumerate(n_targets, start.row):
            middle = (2 * before + count) * self.n_steps // (2 * self.n_targets)
            latest = self.n_steps - (self.n_rows - row)  # a row is left for each of the steps that follow
            step = min(max(step, middle, latest), step + 1, self.n_steps - 1)
            numbers.append(step)
            before += count
        return numbers


def ends_of_whole_steps(numbers: Sequence[int]) -> list[int]:
    """Where rows with these step numbers are cut; those of the last step may go on and are left out."""
    return (np.flatnonzero(np.diff(numbers)) + 1).tolist()
