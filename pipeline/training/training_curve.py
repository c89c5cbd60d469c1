"""How the loss went over the steps of a training, in few points whatever its length."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

POINTS = 200
_MOST_STEPS_A_POINT = 10
_LEAST_POINTS = 50


def logging_steps(total_steps: int) -> int:
    """Steps between two records of the loss: ten, and fewer where the training is so short that ten would hide it."""
    return max(1, min(_MOST_STEPS_A_POINT, total_steps // _LEAST_POINTS))


def training_curve(log_history: Sequence[Mapping[str, Any]], *, points: int = POINTS) -> list[list[float]]:
    """`[step, mean loss of the steps up to it]`, at most `points` of them: neighbours are averaged, never left out.

    `log_history` is that of transformers' TrainerState; what a resumed training logged before it was stopped is in it.
    Where the loss is no number there is no point.
    """
    entries = [entry for entry in log_history if math.isfinite(entry.get("loss", math.nan))]
    logged = [(int(entry["step"]), float(entry["loss"])) for entry in entries]
    steps = [step for step, _ in logged]
    each = -(-len(logged) // points) or 1
    curve = []
    for begin in range(0, len(logged), each):
        before = steps[begin - 1] if begin else 0
        total, last = 0.0, before
        for step, loss in logged[begin : begin + each]:
            total += loss * (step - last)
            last = step
        curve.append([last, round(total / (last - before), 6)])
    return curve
