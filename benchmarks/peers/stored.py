"""What every peer's layout gives back. Shapes: P positions, k ids each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """Bytes of P positions together (targets alone: no input ids, no statistics), and the probabilities `[P, k]` as
    they are read back, of the ids that were given."""

    n_bytes: float
    probs: NDArray[np.float64]
