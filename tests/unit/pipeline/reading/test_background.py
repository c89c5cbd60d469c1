import threading

import pytest

from logitlake.pipeline.reading.background import in_background


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "tested"]


def test_items_come_in_order_and_the_thread_ends():
    assert list(in_background(lambda: iter(range(50)), depth=3, name="tested")) == list(range(50))
    assert not threads()


def test_what_the_thread_raises_comes_after_the_items_before_it():
    def items():
        yield 1
        raise OSError("disk gone")

    iterator = in_background(items, depth=3, name="tested")
    assert next(iterator) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(iterator)
    assert not threads()


def test_even_an_exit_in_the_thread_reaches_the_consumer():
    def items():
        raise SystemExit(3)
        yield

    with pytest.raises(SystemExit):
        list(in_background(items, depth=1, name="tested"))


def test_leaving_early_stops_a_thread_that_waits_for_room():
    iterator = in_background(lambda: iter(range(10**9)), depth=1, name="tested")
    assert next(iterator) == 0
    iterator.close()
    assert not threads()


def test_the_thread_is_never_further_ahead_than_it_may():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    for seen in in_background(items, depth=2, name="tested"):
        assert len(made) <= seen + 1 + 2 + 1
