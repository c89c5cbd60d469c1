"""What is expected of a capture before it begins: how fast, how large, how dear.

The counts of a plan are exact; what can be wrong are the rates. They are noted with the run when it begins, so that
what was said beforehand is on record whatever happens then.
"""

import os
from pathlib import Path

from logitlake.flows.capture.estimate import Basis, Rates, assumed_bytes, assumed_speed
from logitlake.flows.capture.preparation import Prepared
from logitlake.storage.answers.history import stored_bytes_per_token, teacher_speed
from logitlake.storage.lake.lake import Lake


def expected_rates(prepared: Prepared, lake: Lake | None, *, said_speed: float | None = None) -> Rates:
    """The rates to expect: what was said, else measured in this lake, else assumed; each says which."""
    stored = speed = None
    if lake is not None:
        speed = teacher_speed(lake, prepared.files.teacher_hash)
        if prepared.question is None:
            stored = stored_bytes_per_token(lake, prepared.recipe.recipe_id)
    return Rates(
        tokens_per_second=_speed(prepared, said_speed, speed),
        bytes_per_token=_size(prepared, stored),
        price_per_hour=prepared.config.capture.price_per_hour,
    )


def _size(prepared: Prepared, stored: tuple[float, int] | None) -> Basis:
    if stored is None:
        return assumed_bytes(prepared.config.target)
    return Basis(value=stored[0], source=f"measured over {stored[1]:,} tokens of this recipe in the lake")


def _speed(prepared: Prepared, said: float | None, known: tuple[float, int] | None) -> Basis:
    if said is not None:
        return Basis(value=said, source="said: --tokens-per-second")
    if known is not None:
        return Basis(
            value=known[0],
            source=f"measured in {known[1]:,} earlier run{'s' * (known[1] > 1)} of this teacher in the lake",
        )
    return assumed_speed(
        prepared.files.n_parameters, accelerator=_accelerator(prepared.teacher.device), n_cores=os.cpu_count() or 1
    )


def _accelerator(device: str) -> bool:
    """Whether the teacher will have one, as far as can be seen without torch."""
    if device == "auto":
        return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/kfd", "/dev/davinci_manager"))
    return device != "cpu"
