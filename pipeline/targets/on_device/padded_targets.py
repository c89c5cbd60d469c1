"""Targets on a device, in a layout whose shape does not depend on what was drawn.

Shapes: P positions, H heads and N tails at most per position.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets, join, offsets_of


@dataclass(frozen=True, kw_only=True, slots=True)
class PaddedTargets:
    """Heads in descending probability, with code 0 where there is none; tails in ascending id, -1 where there is none.

    All int32. Order and meaning as in CodedTargets.
    """

    head_ids_PH: torch.Tensor  # noqa: N815 (shape suffix)
    codes_PH: torch.Tensor  # noqa: N815 (shape suffix)
    tail_ids_PN: torch.Tensor  # noqa: N815 (shape suffix)

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.head_ids_PH, self.codes_PH, self.tail_ids_PN


def padded(head_ids_PH: torch.Tensor, codes_PH: torch.Tensor, tail_ids_PN: torch.Tensor | None = None) -> PaddedTargets:
    """PaddedTargets of integer tensors; no tails if none are given."""
    if tail_ids_PN is None:
        tail_ids_PN = head_ids_PH[:, :0]
    return PaddedTargets(
        head_ids_PH=head_ids_PH.to(torch.int32),
        codes_PH=codes_PH.to(torch.int32),
        tail_ids_PN=tail_ids_PN.to(torch.int32),
    )


def concatenate_padded(parts: list[PaddedTargets]) -> PaddedTargets:
    """The positions of all parts, one after the other."""
    return padded(*(torch.cat(tensors) for tensors in zip(*(part.tensors for part in parts), strict=True)))


def coded_targets(
    head_ids_PH: NDArray[np.int32], codes_PH: NDArray[np.int32], tail_ids_PN: NDArray[np.int32], levels: int
) -> CodedTargets:
    """On the host: what the arrays of PaddedTargets hold, without the room that was not used."""
    is_head_PH, is_tail_PN = codes_PH > 0, tail_ids_PN >= 0
    return join(
        offsets_of(is_head_PH.sum(axis=1)),
        head_ids_PH[is_head_PH],
        codes_PH[is_head_PH].astype(np.uint16),
        is_tail_PN.sum(axis=1),
        tail_ids_PN[is_tail_PN],
        levels,
    )
