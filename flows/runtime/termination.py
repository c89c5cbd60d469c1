"""The exception that SIGTERM raises while a run is under way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class TerminatedError(BaseException):
    """SIGTERM arrived while a run was under way. Not an Exception: it must not be handled as a failure."""


@contextmanager
def termination_raises() -> Iterator[None]:
    """Raise TerminatedError on SIGTERM during the block, so that everything is closed. Main thread only."""

    def terminate(number: int, frame: object) -> None:
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop_behind(error: BaseException) -> BaseException | None:
    """The Ctrl-C or SIGTERM that an error stands for: DuckDB, for one, makes a RuntimeError of it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt | TerminatedError):
            return seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None
