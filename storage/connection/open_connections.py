"""Every open connection to DuckDB, so that Ctrl-C stops what runs on it.

DuckDB keeps Ctrl-C from working in two ways. While it hands over the rows of a result it never returns to Python, so
that no signal handler runs before the last row. While it executes a statement it raises a RuntimeError on a signal, but
the statement runs on, and the connection's next statement, or its end, waits for it.
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import duckdb

_connections: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()
_lock = threading.Lock()


def stoppable(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Let `stop_queries` stop what runs on this connection; returns the connection."""
    with _lock:
        _connections.add(connection)
    return connection


def stop_queries() -> None:
    """Stop what runs on every open connection: it raises duckdb.InterruptException. May be called in any thread."""
    with _lock:
        connections = list(_connections)
    for connection in connections:
        _stop(connection)


def close(connection: duckdb.DuckDBPyConnection) -> None:
    """Stop what still runs on a connection, and close it."""
    _stop(connection)
    connection.close()


@contextmanager
def closing(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """The connection, `stoppable`, for the time of the block."""
    try:
        yield stoppable(connection)
    finally:
        close(connection)


@contextmanager
def signals_kept(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Raise what a signal handler raised in place of the RuntimeError that DuckDB makes of it, and stop the query."""
    try:
        yield
    except RuntimeError as error:
        if error.__cause__ is None or isinstance(error.__cause__, Exception):
            raise
        _stop(connection)
        raise error.__cause__ from None


def _stop(connection: duckdb.DuckDBPyConnection) -> None:
    with suppress(duckdb.Error):  # it is closed
        connection.interrupt()
