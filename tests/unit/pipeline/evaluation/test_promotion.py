"""A worse student is never promoted, and a decision can be written down as JSON."""

import json
import math

import pytest

from logitlake.pipeline.evaluation.promotion import judge
from logitlake.pipeline.settings.models import RedistillSettings

SETTINGS = RedistillSettings(tolerance=0.01)


def metrics(kl: float | None, cross_entropy: float = 2.0) -> dict[str, float | None]:
    return {"kl": kl, "cross_entropy": cross_entropy}


@pytest.mark.parametrize(
    ("candidate", "promoted"), [(0.9, True), (1.0, True), (1.009, True), (1.02, False), (90.0, False)]
)
def test_a_candidate_may_be_worse_by_the_tolerance_and_no_more(candidate: float, promoted: bool) -> None:
    verdict = judge(metrics(candidate), metrics(1.0), SETTINGS)
    assert verdict.promote is promoted
    assert verdict.figures["difference"] == pytest.approx(candidate - 1.0)
    assert "1.0000" in verdict.reason


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_candidate_that_diverged_is_never_promoted_and_its_figures_are_json(broken: float) -> None:
    for current in (metrics(1.0), metrics(math.nan), None):
        verdict = judge(metrics(broken, broken), current, SETTINGS)
        assert not verdict.promote
        json.dumps(verdict.figures, allow_nan=False)


def test_anything_finite_is_better_than_a_current_student_that_is_not() -> None:
    verdict = judge(metrics(5.0), metrics(math.nan), SETTINGS)
    assert verdict.promote
    json.dumps(verdict.figures, allow_nan=False)


def test_the_first_student_is_promoted() -> None:
    assert judge(metrics(5.0), None, SETTINGS).promote
    assert judge({}, None, SETTINGS).promote, "with nothing held out there is nothing to measure"


def test_where_the_cache_does_not_know_the_kl_cross_entropy_decides() -> None:
    verdict = judge(metrics(None, 2.5), metrics(0.1, 2.0), SETTINGS)
    assert (verdict.promote, verdict.figures["measure"]) == (False, "cross_entropy")


def test_without_figures_of_both_nothing_is_decided() -> None:
    with pytest.raises(ValueError, match="expected cross_entropy"):
        judge({}, metrics(None), SETTINGS)
