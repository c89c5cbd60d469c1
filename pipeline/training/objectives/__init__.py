"""Losses: what the student's softmax is pulled to at each position, one a file, and one line in `LOSSES`.

A loss gives the LossTerm of a batch (sparse weights under one softmax); its value and gradient follow from that.

Shapes: P positions with a target; E stored entries.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from logitlake.pipeline.training.loss_terms import LossTerm


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """The positions of a batch that have a target.

    `counts` int64 [P]: entries of each; `ids` int64 [E] and `probs` [E]: the entries; `ghost` [P] or None: mass outside
    of them; `next_ids` int64 [P] or None: the real next tokens; `temperature`: the recipe's; `share`: the part of the
    whole loss that this one has, to multiply weights by.
    """

    counts: torch.Tensor
    ids: torch.Tensor
    probs: torch.Tensor
    ghost: torch.Tensor | None
    next_ids: torch.Tensor | None
    temperature: float
    share: float


class Loss(Protocol):
    """A pure function, registered under the name that `training.loss` uses."""

    def __call__(self, inputs: LossInputs) -> LossTerm: ...
