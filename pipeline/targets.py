"""Rows of the cache → targets that a loss can use: Arrow buffers in, flat arrays out, no Python object per token.

Shapes: R rows; N positions, either all positions of the rows end to end (ragged) or B·T padded ones, row-major; E
stored entries; B sequences in a batch; T its longest one. Entry i of a row is the target for token i+1.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

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


def decode_targets(rows: pa.Table, *, cut_mass: CutMass = "renormalise") -> RaggedTargets:
    """Decode the columns `levels`, `target_ids` and `head_codes` of some rows.

    A head is worth code/levels. With L levels and C = Σ codes, the residual (L-C)/L is shared equally by the tail ids,
    duplicates counting twice. Where mass was cut off (heads, residual, no tail) `renormalise` makes a head worth
    code/C, and `ghost` keeps code/L and puts (L-C)/L in one further bucket that stands for all other ids together.

    Raises IntegrityError for rows that no capture can have written.
    """
    row_offsets, offsets, ids = _nested(rows["target_ids"])
    code_rows, code_offsets, codes = _nested(rows["head_codes"])
    if not np.array_equal(row_offsets, code_rows):
        raise IntegrityError("target_ids and head_codes have different numbers of positions: run `logitlake verify`")
    levels = np.repeat(rows["levels"].to_numpy().astype(np.int64), np.diff(row_offsets))
    n_ids, n_heads = np.diff(offsets), np.diff(code_offsets)
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(codes, dtype=np.int64)])
    coded = running[code_offsets[1:]] - running[code_offsets[:-1]]
    if (n_heads > n_ids).any() or (coded > levels).any():
        raise IntegrityError("more heads than ids, or heads that sum above 1: run `logitlake verify`")

    n_tail = n_ids - n_heads
    cut = (n_tail == 0) & (coded < levels) & (coded > 0)
    unit = levels.astype(np.float64)
    if cut_mass == "renormalise":
        unit = np.where(cut, coded, unit)
    tail_value = (levels - coded) / (levels * np.maximum(n_tail, 1))
    probs = np.repeat(tail_value, n_ids)
    first_code = np.repeat(code_offsets[:-1], n_heads)
    slots = np.repeat(offsets[:-1], n_heads) + np.arange(len(codes)) - first_code
    probs[slots] = codes / np.repeat(unit, n_heads)
    ghost = None
    if cut_mass == "ghost" and cut.any():
        ghost = np.where(cut, (levels - coded) / levels, 0.0).astype(np.float32)
    return RaggedTargets(
        row_offsets=row_offsets,
        offsets=offsets,
        ids=ids,
        probs=probs.astype(np.float32),
        n_heads=n_heads,
        ghost=ghost,
    )


def make_batch(rows: pa.Table, *, cut_mass: CutMass = "renormalise", pad_id: int = 0) -> TargetBatch:
    """Rows (columns TARGET_COLUMNS) as one batch, padded on the right to the longest of them.

    No rows give a batch of padding alone: a rank without work still takes its part in a step.
    """
    ragged = decode_targets(rows, cut_mass=cut_mass)
    tokens, token_offsets = flat_lists(rows["input_ids"])
    if not np.array_equal(token_offsets, ragged.row_offsets):
        raise IntegrityError("input_ids and target_ids have different numbers of positions: run `logitlake verify`")
    lengths = np.diff(token_offsets)
    B, T = max(len(lengths), 1), max(int(lengths.max(initial=0)), 2)
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    padded_at = row_of * T + np.arange(len(tokens)) - np.repeat(token_offsets[:-1], lengths)

    input_ids = np.full(B * T, pad_id, np.int64)
    input_ids[padded_at] = tokens
    counts = np.zeros(B * T, np.int64)
    counts[padded_at] = np.diff(ragged.offsets)
    following = np.roll(input_ids, -1)
    next_ids = np.where(counts > 0, following, NO_LABEL)
    if counts.reshape(B, T)[np.arange(len(lengths)), lengths - 1].any():
        raise IntegrityError("a sequence has a target after its last token: run `logitlake verify`")
    n_targets = int((counts > 0).sum())
    ghost = None
    if ragged.ghost is not None:
        ghost = np.zeros(B * T, np.float32)
        ghost[padded_at] = ragged.ghost
    targets = SparseTargets(
        offsets=torch.from_numpy(np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])),
        ids=torch.from_numpy(ragged.ids.astype(np.int64)),
        probs=torch.from_numpy(ragged.probs),
        ghost=None if ghost is None else torch.from_numpy(ghost),
    )
    return TargetBatch(
        input_ids=torch.from_numpy(input_ids).view(B, T),
        next_ids=torch.from_numpy(next_ids).view(B, T),
        targets=targets,
        n_tokens=len(tokens),
        n_targets=n_targets,
        step_targets=n_targets,
    )


def flat_lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Values end to end, and the int64 offsets of the rows among them, of a column of lists without nulls inside."""
    lists = _one_array(column)
    if lists.null_count:
        raise IntegrityError("a list column holds a null row: run `logitlake verify`")
    offsets = _offsets(lists)
    values = lists.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    return values.to_numpy(zero_copy_only=False), offsets - offsets[0]


def _nested(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row offsets [R+1], position offsets [N+1] and leaves of a column of lists of lists; a null position is empty."""
    outer = _one_array(column)
    if outer.null_count:
        raise IntegrityError("a target column holds a null row: run `logitlake verify`")
    rows = _offsets(outer)
    inner = outer.values.slice(int(rows[0]), int(rows[-1] - rows[0]))
    positions = _offsets(inner)
    if inner.null_count:
        # Arrow lets a null list own values; `flatten` drops them, so the offsets are counted anew.
        lengths = np.where(inner.is_valid().to_numpy(zero_copy_only=False), np.diff(positions), 0)
        positions = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        leaves = inner.flatten()
    else:
        leaves = inner.values.slice(int(positions[0]), int(positions[-1] - positions[0]))
        positions = positions - positions[0]
    return rows - rows[0], positions, leaves.to_numpy(zero_copy_only=False)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _offsets(lists: pa.Array) -> np.ndarray:
    """Offsets of the rows of a (sliced) list array into its `values`; an empty array has the one offset 0."""
    if len(lists) == 0:
        return np.zeros(1, np.int64)
    return lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
