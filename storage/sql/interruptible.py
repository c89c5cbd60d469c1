"""Work in DuckDB that Ctrl-C and a time limit can stop, with the connection fit for the next query."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from logitlake.storage.errors import QueryError


@contextmanager
def interruptible(connection: duckdb.DuckDBPyConnection, timeout: float | None) -> Iterator[None]:
    """What runs inside is stopped by Ctrl-C (KeyboardInterrupt) or when `timeout` seconds are over (QueryError).

    DuckDB's own way with a signal gives the connection back while the query still runs, and the next one waits for it;
    its `interrupt` does not.
    """
    over, asked = threading.Event(), threading.Event()

    def stop_for(reason: threading.Event) -> None:
        reason.set()
        connection.interrupt()

    timer = threading.Timer(timeout or 0, stop_for, [over])
    if timeout:
        timer.start()
    handled = _handle_interrupts(lambda: stop_for(asked))
    try:
        yield
    except (duckdb.Error, pa.ArrowException):
        if over.is_set():
            raise QueryError(f"the query took longer than {timeout:g} s and was stopped (--timeout)") from None
        if not asked.is_set():
            raise
    finally:
        if handled is not None:
            signal.signal(signal.SIGINT, handled)
        timer.cancel()
        if timeout:
            timer.join()
    if asked.is_set():
        raise KeyboardInterrupt


def _handle_interrupts(stop: Any) -> Any:
    """Let SIGINT call `stop`, and return what handled it before; None in a thread, which gets no signals."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGINT, lambda *_: stop())
