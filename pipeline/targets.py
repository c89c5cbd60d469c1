"""Rows of the cache → targets that a loss can use: Arrow buffers in, flat arrays out, no Python object per token.

Shapes: R rows; N positions, either all positions of the rows end to end (ragged) or B·T padded ones, row-major; E
stored entries; B sequences in a batch; T its longest one. Entry i of a row is the target for token i+1.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

from pipeline.flat_rows import FlatRows
from storage.errors import IntegrityError

CutMass = Literal["renormalise", "ghost"]

# What a batch is made of; a reader of rows needs no other columns.
TARGET_COLUMNS = ("n_tokens", "n_targets", "levels", "input_ids", "target_ids", "head_codes")

NO_LABEL = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedTargets:
    """Decoded targets of the positions of some rows, end to end, on the CPU.

    `row_offsets` int64 [R+1]: positions of each row; `offsets` int64 [N+1]: entries of each position, none where there
    is no target; `ids` int32 [E]; `probs` float32 [E]; `n_heads` int64 [N]: how many of a position's entries are heads,
    which come first; `ghost` float32 [N]: mass of the ghost bucket, or None where no row has one.
    """

    row_offsets: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    probs: np.ndarray
    n_heads: np.ndarray
    ghost: np.ndarray | None


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
    so causal attention needs no mask: no real position ever sees it. `n_tokens` counts real tokens, not padding.
    `step_targets` counts the targets of this batch on all ranks together: the divisor of a mean over tokens.
    """

    input_ids: torch.Tensor
    next_ids: torch.Tensor
    targets: SparseTargets
    n_tokens: int
    n_targets: int
    step_targets: int

    def to(self, device: torch.device | str) -> "TargetBatch":
        """The same batch on `device`."""
        return TargetBatch(
            input_ids=self.input_ids.to(device),
            next_ids=self.next_ids.to(device),
            targets=self.targets.to(device),
            n_tokens=self.n_tokens,
            n_targets=self.n_targets,
            step_targets=self.step_targets,
        )


def decode_targets(rows: pa.Table | FlatRows, *, cut_mass: CutMass = "renormalise") -> RaggedTargets:
    """Decode the columns `levels`, `target_ids` and `head_codes` of some rows.

    A head is worth code/levels. With L levels and C = Σ codes, the residual (L-C)/L is shared equally by the tail ids,
    duplicates counting twice. Where mass was cut off (heads, residual, no tail) `renormalise` makes a head worth
    code/C, and `ghost` keeps code/L and puts (L-C)/L in one further bucket that stands for all other ids together.

    Raises IntegrityError for rows that no capture can have written.
    """
    flat = rows if isinstance(rows, FlatRows) else FlatRows.of(rows)
    levels = np.repeat(flat.levels.astype(np.int64), np.diff(flat.row_offsets))
    offsets, code_offsets = _running(flat.n_ids), _running(flat.n_heads)
    coded = np.diff(_running(flat.codes)[code_offsets])
    n_tail = flat.n_ids - flat.n_heads
    if (n_tail < 0).any() or (coded > levels).any():
        raise IntegrityError("more heads than ids, or heads that sum above 1: run `logitlake verify`")

    cut = (n_tail == 0) & (coded < levels) & (coded > 0)
    unit = np.where(cut, coded, levels) if cut_mass == "renormalise" else levels
    tail_value = (levels - coded) / (levels * np.maximum(n_tail, 1))
    probs = np.repeat(tail_value.astype(np.float32), flat.n_ids)
    slots = np.repeat(offsets[:-1] - code_offsets[:-1], flat.n_heads) + np.arange(len(flat.codes))
    # Codes and levels are below 2^24, so a float32 holds them and their quotient is the nearest one.
    probs[slots] = flat.codes.astype(np.float32) / np.repeat(unit.astype(np.float32), flat.n_heads)
    ghost = None
    if cut_mass == "ghost" and cut.any():
        ghost = np.where(cut, (levels - coded) / levels, 0.0).astype(np.float32)
    return RaggedTargets(
        row_offsets=flat.row_offsets, offsets=offsets, ids=flat.ids, probs=probs, n_heads=flat.n_heads, ghost=ghost
    )


def make_batch(rows: pa.Table | FlatRows, *, cut_mass: CutMass = "renormalise", pad_id: int = 0) -> TargetBatch:
    """Rows (columns TARGET_COLUMNS) as one batch, padded on the right to the longest of them.

    No rows give a batch of padding alone: a rank without work still takes its part in a step.
    """
    flat = rows if isinstance(rows, FlatRows) else FlatRows.of(rows)
    ragged = decode_targets(flat, cut_mass=cut_mass)
    lengths = np.diff(flat.row_offsets)
    B, T = max(len(lengths), 1), max(int(lengths.max(initial=0)), 2)
    first_places = np.arange(len(lengths)) * T
    padded_at = np.repeat(first_places - flat.row_offsets[:-1], lengths) + np.arange(len(flat.tokens))

    input_ids = np.full(B * T, pad_id, np.int64)
    input_ids[padded_at] = flat.tokens
    counts = np.zeros(B * T, np.int64)
    counts[padded_at] = flat.n_ids
    has_target = counts > 0
    next_ids = np.where(has_target, np.roll(input_ids, -1), NO_LABEL)
    if has_target[first_places + lengths - 1].any():
        raise IntegrityError("a sequence has a target after its last token: run `logitlake verify`")
    n_targets = int(np.count_nonzero(has_target))
    ghost = None
    if ragged.ghost is not None:
        ghost = np.zeros(B * T, np.float32)
        ghost[padded_at] = ragged.ghost
    targets = SparseTargets(
        offsets=torch.from_numpy(_running(counts)),
        ids=torch.from_numpy(ragged.ids.astype(np.int64)),
        probs=torch.from_numpy(ragged.probs),
        ghost=None if ghost is None else torch.from_numpy(ghost),
    )
    return TargetBatch(
        input_ids=torch.from_numpy(input_ids).view(B, T),
        next_ids=torch.from_numpy(next_ids).view(B, T),
        targets=targets,
        n_tokens=len(flat.tokens),
        n_targets=n_targets,
        step_targets=n_targets,
    )


def _running(counts: np.ndarray) -> np.ndarray:
    """0 and the running sums: int64, one longer than `counts`."""
    sums = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, dtype=np.int64, out=sums[1:])
    return sums
