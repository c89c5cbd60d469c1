"""What a teacher engine must do, whichever library runs the model.

Shapes: n tokens of one sequence, P wanted positions of the batch in row-major order, V ids of the vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class Engine(Protocol):
    """A loaded teacher. Same input, same logits up to the noise of the device; nothing is random."""

    @property
    def vocab_size(self) -> int:
        """V: the ids that can have probability. Rows of the output layer beyond are left out of the logits."""

    @property
    def device(self) -> torch.device:
        """Where the logits are."""

    @property
    def description(self) -> dict[str, str]:
        """What ran, for the record of the run: device, dtype, attention kernel, library versions."""

    def forward(
        self, input_ids: Sequence[NDArray[np.int32]], wanted: Sequence[NDArray[np.bool_]]
    ) -> Iterator[torch.Tensor]:
        """Logits `[p, V]` of the wanted positions, in chunks whose rows together are the P wanted ones in order.

        `input_ids[i]` and `wanted[i]` have the same length n; position j's logits predict token j + 1. A chunk is
        valid until the next is asked for.
        """
