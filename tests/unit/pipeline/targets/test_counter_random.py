import numpy as np
import pytest

from logitlake.pipeline.targets.counter_random import MAX_STREAMS, document_keys, uniforms

FIRST_DRAWS = [[0.6018250494778282, 0.6954340629140976], [0.43156115466616307, 0.012546843425552012]]


def draw(seed: int, doc_id: str, positions: list[int], streams: int = 2) -> np.ndarray:
    keys = np.repeat(document_keys(seed, [doc_id]), len(positions), axis=0)
    return uniforms(keys, np.array(positions), streams)


def test_a_draw_depends_on_nothing_but_seed_document_position_and_stream() -> None:
    alone = draw(1, "a", [70_000])
    keys = document_keys(1, ["b", "a", "a"])
    together = uniforms(keys, np.array([3, 70_000, 4], np.int32), 5)
    np.testing.assert_array_equal(together[1, :2], alone[0])


@pytest.mark.parametrize(("seed", "doc_id", "position"), [(2, "a", 5), (1, "b", 5), (1, "a", 6)])
def test_another_seed_document_or_position_is_another_draw(seed: int, doc_id: str, position: int) -> None:
    assert (draw(1, "a", [5]) != draw(seed, doc_id, [position])).all()


def test_the_first_draws_are_the_same_for_ever() -> None:
    """Written down once: a change of the generator changes every target and must be a new format version."""
    np.testing.assert_array_equal(draw(0, "document", [1, 2]), FIRST_DRAWS)


def test_draws_are_uniform_and_uncorrelated_over_positions_streams_and_documents() -> None:
    keys = np.repeat(document_keys(0, [str(i) for i in range(100)]), 1000, axis=0)
    values = uniforms(keys, np.tile(np.arange(1000), 100), 3)
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram(values, bins=100, range=(0, 1))[0]
    expected = values.size / 100
    # Chi-square with 99 degrees of freedom: 160 is past the 99.99th percentile.
    assert ((counts - expected) ** 2 / expected).sum() < 160
    flat = values - 0.5
    bound = 5 / np.sqrt(len(flat))
    for other in (np.roll(flat, 1, axis=0), np.roll(flat, 1, axis=1), np.roll(flat, 1000, axis=0)):
        assert np.abs((flat * other).mean() * 12) < bound


@pytest.mark.parametrize("streams", [0, MAX_STREAMS + 1])
def test_a_number_of_streams_that_would_run_into_the_next_position_is_refused(streams: int) -> None:
    with pytest.raises(ValueError, match="streams"):
        draw(0, "a", [1], streams)
