"""Targets as a loss takes them: padded batches of tensors, made of decoded rows by copying slices.

Shapes: B lines in a batch, each of one sequence or of several end to end; T the longest line; N = B·T padded positions,
row-major; E stored entries. Entry i of a row is the target for token i+1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from logitlake.pipeline.targets.decoding import CutMass, DecodedTable, PickedRow

# What a batch is made of; a reader of rows needs no other columns.
TARGET_COLUMNS = ("n_tokens", "n_targets", "levels", "input_ids", "target_ids", "head_codes")

NO_LABEL = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseTargets:
    """Targets of N positions in CSR form, as tensors on one device.

    `offsets` int64 [N+1], `ids` int64 [E], `probs` float [E], `ghost` float [N] or None. A position without entries
    has no target and takes no part in the loss.
    """

    offsets: torch.Tensor
    ids: torch.Tensor
    probs: torch.Tensor
    ghost: torch.Tensor | None = None

    @property
    def n_positions(self) -> int:
        return self.offsets.numel() - 1

    def to(self, device: torch.device | str) -> "SparseTargets":
        """The same targets on `device`."""
        ghost = None if self.ghost is None else self.ghost.to(device)
        return SparseTargets(
            offsets=self.offsets.to(device), ids=self.ids.to(device), probs=self.probs.to(device), ghost=ghost
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetBatch:
    """One padded batch: `input_ids` int64 [B, T], `next_ids` int64 [B, T], `targets` over its B·T positions.

    `next_ids[b, i]` is token i+1 where that position has a target and NO_LABEL elsewhere. Padding stands on the right,
    so causal attention needs no mask: no real position ever sees it. `position_ids` int64 [B, T] begins again at 0 with
    each sequence of a line, and with the padding; by them transformers keeps the sequences of a line apart. It is None
    where no line has two sequences. `n_tokens` counts real tokens, not padding. `step_targets` counts the targets of
    the optimiser step that this batch is a part of, on all ranks together: the divisor of a mean over tokens.
    `ends_step`: the step follows this batch.
    """

    input_ids: torch.Tensor
    next_ids: torch.Tensor
    targets: SparseTargets
    n_tokens: int
    n_targets: int
    step_targets: int
    ends_step: bool = True
    position_ids: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> "TargetBatch":
        """The same batch on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            next_ids=self.next_ids.to(device),
            targets=self.targets.to(device),
            position_ids=None if self.position_ids is None else self.position_ids.to(device),
        )


def make_batch(rows: pa.Table, *, cut_mass: CutMass = "renormalise", pad_id: int = 0) -> TargetBatch:
    """Rows (columns TARGET_COLUMNS) as one batch; see `batch_of`. Raises IntegrityError as decoding does."""
    return batch_of(DecodedTable.of(rows, cut_mass=cut_mass).rows(np.arange(rows.num_rows)), pad_id=pad_id)


def batch_of(picked: Sequence[PickedRow], *, pad_id: int = 0) -> TargetBatch:
    """Decoded rows as one batch, padded on the right to the longest of them."""
    return batch_of_lines([[row] for row in picked], pad_id=pad_id)


def batch_of_lines(
    lines: Sequence[Sequence[PickedRow]], *, step_targets: int | None = None, ends_step: bool = True, pad_id: int = 0
) -> TargetBatch:
    """Decoded rows as one batch, those of a line end to end, padded on the right to the longest line.

    `step_targets` counts the targets of the whole step; None: this batch is all of it. No lines give a batch of padding
    alone: a rank without work still takes its part in a step.
    """
    lengths = [[rows.places[row + 1] - rows.places[row] for rows, row in line] for line in lines]
    B, T = max(len(lines), 1), max([2, *map(sum, lengths)])
    input_ids = np.full((B, T), pad_id, np.int64)
    offsets = np.zeros(B * T + 1, np.int64)
    counts = offsets[1:].reshape(B, T)
    ghost = np.zeros((B, T), np.float32) if any(rows.ghost is not None for line in lines for rows, _ in line) else None
    ids, probs = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
    for b, line in enumerate(lines):
        begin = 0
        for (rows, row), length in zip(line, lengths[b], strict=True):
            first, last = rows.places[row], rows.places[row + 1]
            low, high = rows.bounds[row], rows.bounds[row + 1]
            here = slice(begin, begin + length)
            input_ids[b, here] = rows.tokens[first:last]
            counts[b, here] = rows.counts[first:last]
            ids.append(rows.ids[low:high])
            probs.append(rows.probs[low:high])
            if ghost is not None and rows.ghost is not None:
                ghost[b, here] = rows.ghost[first:last]
            begin += length
    has_target = counts > 0
    # The last position of a row never has a target, so the token after it is never asked for.
    next_ids = np.full((B, T), NO_LABEL, np.int64)
    np.copyto(next_ids[:, :-1], input_ids[:, 1:], where=has_target[:, :-1])
    n_targets = int(np.count_nonzero(has_target))
    np.cumsum(offsets, out=offsets)
    targets = SparseTargets(
        offsets=torch.from_numpy(offsets),
        ids=torch.from_numpy(np.concatenate(ids, dtype=np.int64)),
        probs=torch.from_numpy(np.concatenate(probs)),
        ghost=None if ghost is None else torch.from_numpy(ghost.ravel()),
    )
    return TargetBatch(
        input_ids=torch.from_numpy(input_ids),
        next_ids=torch.from_numpy(next_ids),
        targets=targets,
        n_tokens=sum(map(sum, lengths)),
        n_targets=n_targets,
        step_targets=n_targets if step_targets is None else step_targets,
        ends_step=ends_step,
        position_ids=_position_ids(lengths, T) if any(len(line) > 1 for line in lines) else None,
    )


def _position_ids(lengths: Sequence[Sequence[int]], T: int) -> torch.Tensor:
    position_ids = np.empty((len(lengths), T), np.int64)
    for b, of_line in enumerate(lengths):
        begin = 0
        for length in (*of_line, T - sum(of_line)):
            position_ids[b, begin : begin + length] = np.arange(length)
            begin += length
    return torch.from_numpy(position_ids)
