"""A change that another commit overtook, or that met a server which was away, is tried again, for a bounded time."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from logitlake.storage.errors import LakeBusyError, LostRaceError, UnreachableError

Result = TypeVar("Result")

# Random, so that two writers do not meet again and again.
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 2.0


def in_turn(attempt: Callable[[], Result], *, seconds: float, undone: str) -> Result:
    """Call `attempt`, and again each time that it raises LostRaceError; returns its result.

    `attempt` must read again what it depends on. Raises LakeBusyError after `seconds`; `undone` says what was not done.
    """
    tries = Retrying(
        retry=retry_if_exception_type(LostRaceError),
        wait=wait_random_exponential(multiplier=_SHORTEST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS),
        stop=stop_after_delay(seconds),
    )
    try:
        return tries(attempt)
    except RetryError as error:
        last = error.last_attempt
        if isinstance(reason := last.exception(), UnreachableError):
            raise LakeBusyError(
                f"the catalog's server was away for {seconds:g} s and {last.attempt_number} attempts, so {undone}: "
                f"check the server and run again, which goes on from what is committed. The last reason: {reason}"
            ) from reason
        raise LakeBusyError(
            f"other writers came first {last.attempt_number} times within {seconds:g} s, so {undone}; the last reason: "
            f"{last.exception()}. Run again, or raise lake.lock_timeout_seconds"
        ) from last.exception()
