import numpy as np
import pytest

from logitlake.pipeline.targets.encoding import segment_means, statistic_codes
from logitlake.storage.schema.sequences import STATISTIC_STEP


def test_a_code_is_off_by_at_most_half_a_step() -> None:
    nats = np.linspace(0, 20, 12345)
    assert np.abs(statistic_codes(nats) * STATISTIC_STEP - nats).max() <= STATISTIC_STEP / 2
    for steps in (32, 256, 1024):
        below = nats[nats < 65535 / steps]
        assert np.abs(statistic_codes(below, steps) / steps - below).max() <= 0.5 / steps


def test_values_past_the_top_and_infinity_take_the_top_code() -> None:
    assert statistic_codes(np.array([1e9, np.inf])).tolist() == [65535, 65535]


def test_nan_has_no_code() -> None:
    with pytest.raises(ValueError, match="NaN"):
        statistic_codes(np.array([0.0, np.nan]))


def test_means_are_those_of_each_run_and_nan_for_an_empty_one() -> None:
    means = segment_means(np.array([1.0, 2, 3, 10]), np.array([0, 3, 0, 1, 0]))
    np.testing.assert_array_equal(means, [np.nan, 2, np.nan, 10, np.nan])
