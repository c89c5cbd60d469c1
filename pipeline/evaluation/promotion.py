"""Decides from metrics whether a candidate replaces the current student."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from logitlake.pipeline.settings.models import RedistillSettings

Metrics = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether to promote, the reason in one sentence, and the figures behind it (JSON-able, no NaN)."""

    promote: bool
    reason: str
    figures: dict[str, Any]


def judge(candidate: Metrics, current: Metrics | None, settings: RedistillSettings) -> Verdict:
    """Promote unless the candidate is worse by more than `tolerance` nats; always promote the first student.

    Both are metrics by name, measured on the same rows. If one of them has no KL, cross-entropy decides. A candidate
    whose loss is not finite is never promoted.
    """
    measure = _measure(candidate, current, settings)
    value = candidate.get(measure)
    figures = {
        "measure": measure,
        "tolerance": settings.tolerance,
        "candidate": _finite(candidate),
        "current": _finite(current) if current is not None else None,
    }
    for name in (measure, "cross_entropy"):
        if not math.isfinite(candidate.get(name) or 0.0):
            return Verdict(promote=False, reason=f"the candidate's {name} is not finite", figures=figures)
    if current is None:
        return Verdict(promote=True, reason="there was no student before", figures=figures)
    if value is None or current.get(measure) is None:
        raise ValueError(
            f"expected {measure} of candidate and current student, found {value} and {current.get(measure)}"
        )
    difference = value - current[measure]
    figures["difference"] = difference if math.isfinite(difference) else None
    # `not >` also promotes if the current student's loss is NaN.
    promote = not difference > settings.tolerance
    words = "no worse than" if promote else "worse than"
    reason = (
        f"{measure} {value:.4f} nats is {words} {current[measure]:.4f} of the current student by the tolerance of "
        f"{settings.tolerance:g}"
    )
    return Verdict(promote=promote, reason=reason, figures=figures)


def _measure(candidate: Metrics, current: Metrics | None, settings: RedistillSettings) -> str:
    both = [candidate] if current is None else [candidate, current]
    measured = all(metrics.get(settings.measure) is not None for metrics in both)
    return settings.measure if measured else "cross_entropy"


def _finite(metrics: Metrics) -> dict[str, Any]:
    """NaN and infinity become None: JSON has neither."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
