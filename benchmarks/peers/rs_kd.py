"""Random sampling distillation as published (Anshumann et al., ACL 2025): 12 unique ids on average, 24 bits for each.

The number of draws that gives 12 unique ids depends on the teacher and the text, so it is found here.
"""

from collections.abc import Mapping

UNIQUE_IDS = 12
PUBLISHED_BYTES = UNIQUE_IDS * 24 / 8


def draws_for(unique_of: Mapping[int, float], unique: float = UNIQUE_IDS) -> int:
    """The number of draws whose mean number of unique ids is nearest to `unique`. ValueError if none comes near."""
    best = min(unique_of, key=lambda draws: abs(unique_of[draws] - unique))
    if abs(unique_of[best] - unique) > 0.5:
        raise ValueError(f"draws: expected one with about {unique} unique ids, found {unique_of[best]:.2f}")
    return best
