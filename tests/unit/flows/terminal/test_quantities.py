"""Numbers with a unit."""

import pytest

from logitlake.flows.terminal.quantities import bytes_text, change_text, duration_text, named_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_345_678, "12.3 MB"),
        (999_999, "1.00 MB"),
        (123_456_789_000, "123 GB"),
        (5e18, "5,000 PB"),
    ],
)
def test_bytes(value: float, text: str) -> None:
    assert bytes_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (1.66, "1.7 s"),
        (59.9, "60 s"),
        (59.97, "1 min"),
        (725, "12 min 5 s"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (7199.9, "2 h"),
        (367_200, "4 days 6 h"),
        (172_800, "2 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("expected", "found", "text"), [(100, 112, "+12 %"), (100, 50, "-50 %"), (3, 3.001, "as expected"), (0, 4, "-")]
)
def test_changes(expected: float, found: float, text: str) -> None:
    assert change_text(expected, found) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("n_bytes", 2000, "2.00 kB"),
        ("bytes_on_disk", 2000, "2.00 kB"),
        ("bytes_per_token", 17.5, None),
        ("teacher_hours", 0.5, "30 min"),
        ("seconds", 90, "1 min 30 s"),
        ("tokens_per_second", 90, None),
        ("n_tokens", 90, None),
        ("seconds", None, None),
    ],
)
def test_a_name_tells_the_unit(name: str, value: object, text: str | None) -> None:
    assert named_text(name, value) == text
