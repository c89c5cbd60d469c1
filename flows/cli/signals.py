"""Ctrl-C and SIGTERM while DuckDB works: its queries are stopped, so that Python's own signal handler can run.

Python notes a signal at once, but calls its handler only between two instructions of the main thread.
"""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_sender: socket.socket | None = None


@contextmanager
def signals_stop_queries() -> Iterator[None]:
    """During the block, a signal that ends the process also stops what DuckDB runs. Main thread only."""
    global _sender
    receiver, _sender = socket.socketpair()
    with receiver, _sender:
        _sender.setblocking(False)
        watching = threading.Thread(target=_watch, args=(receiver,), name="signals", daemon=True)
        watching.start()
        before = signal.set_wakeup_fd(_sender.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            _sender.shutdown(socket.SHUT_WR)
            watching.join()
            _sender = None


def listen_again() -> None:
    """Undo what asyncio does at its end: it lets no signal reach `signals_stop_queries`."""
    if _sender is not None:
        signal.set_wakeup_fd(_sender.fileno(), warn_on_full_buffer=False)


def _watch(receiver: socket.socket) -> None:
    """Stop the queries on each signal until the sender is closed."""
    while numbers := receiver.recv(64):
        if any(number in _STOPPING for number in numbers):
            # Imported here: help and completion need no DuckDB.
            from logitlake.storage.connection.open_connections import stop_queries

            stop_queries()
