"""What a capture would take."""

import pytest

from logitlake.flows.capture.estimate import Basis, Rates, assumed_bytes, assumed_speed, estimate
from logitlake.pipeline.settings.models import TargetSettings


def test_hours_bytes_and_cost_follow_from_tokens() -> None:
    rates = Rates(
        bytes_per_token=Basis(value=20, source="measured"),
        tokens_per_second=Basis(value=1000, source="said"),
        price_per_hour=3,
    )
    taken = estimate(7_200_000, rates)
    assert (taken.n_bytes, taken.hours, taken.cost) == (144_000_000, 2, 6)


def test_without_a_price_there_is_no_cost() -> None:
    basis = Basis(value=1, source="")
    assert estimate(1, Rates(bytes_per_token=basis, tokens_per_second=basis)).cost is None


@pytest.mark.parametrize(("threshold", "entries"), [(0.1, 5.5), (0.05, 8.5), (0.02, 15.8), (0.01, 25.6)])
def test_the_assumed_entries_are_near_the_measured_ones(threshold: float, entries: float) -> None:
    assert TargetSettings(threshold=threshold).expected_entries() == pytest.approx(entries, rel=0.08)


@pytest.mark.parametrize(("draws", "entries"), [(25, 8.6), (50, 13.8), (200, 35.0)])
def test_so_are_those_of_random_draws(draws: int, entries: float) -> None:
    assert TargetSettings(sparsifier="random", draws=draws).expected_entries() == pytest.approx(entries, rel=0.02)


def test_every_assumption_says_that_it_is_one() -> None:
    assert "assumed" in assumed_bytes(TargetSettings()).source
    assert "assumed" in assumed_speed(135_000_000, accelerator=True, n_cores=2).source
    wish = assumed_bytes(TargetSettings(target_bytes=17))
    assert (wish.value, "target_bytes" in wish.source) == (17, True)
