"""Running an iterator ahead of its consumer, in a thread that can't die unheard or block for ever."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_POLL_SECONDS = 0.2


def in_background(make: Callable[[], Iterator[Item]], *, depth: int, name: str) -> Iterator[Item]:
    """The items of `make()`, made by a thread called `name` that is at most `depth` items ahead.

    What the thread raises is raised here. Leaving the iteration early stops the thread and waits for it.
    """
    ready: queue.Queue[Item | _End] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    producer = threading.Thread(target=_produce, args=(make, ready, stop), name=name, daemon=True)
    producer.start()
    try:
        while not isinstance(item := _take(ready, producer), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        producer.join()


class _End:
    """The producer is done: as it should be, or by an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def _produce(make: Callable[[], Iterator[Item]], ready: "queue.Queue[Item | _End]", stop: threading.Event) -> None:
    try:
        for item in make():
            if not _give(ready, item, stop):
                return
        _give(ready, _End(), stop)
    except BaseException as error:  # whatever it is, it must reach the consumer
        _give(ready, _End(error), stop)


def _give(ready: "queue.Queue[Item | _End]", item: "Item | _End", stop: threading.Event) -> bool:
    """Put an item in the queue; False if the consumer went away first."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=_POLL_SECONDS)
            return True
        except queue.Full:
            continue
    return False


def _take(ready: "queue.Queue[Item | _End]", producer: threading.Thread) -> "Item | _End":
    """The next item. Raises RuntimeError if the producer is gone without a word."""
    while True:
        alive = producer.is_alive()
        try:
            return ready.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            if not alive:
                raise RuntimeError(f"the thread {producer.name!r} ended without a word") from None
