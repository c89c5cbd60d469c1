"""A change that others overtook is tried again, for a bounded time."""

import pytest

from logitlake.storage.connection.turns import in_turn
from logitlake.storage.errors import LakeBusyError, LakeError, LostRaceError


def test_the_result_of_the_first_attempt_that_was_not_overtaken():
    left = [1, 2, 3]

    def attempt() -> str:
        if left:
            raise LostRaceError(f"commit {left.pop()}")
        return "done"

    assert in_turn(attempt, seconds=60, undone="nothing was done") == "done"
    assert left == []


def test_it_ends_after_the_time_and_says_why_and_what_was_not_done():
    def attempt() -> None:
        raise LostRaceError("commit 7 came first")

    with pytest.raises(LakeBusyError, match=r"within 0\.2 s, so nothing was done;.*commit 7 came first") as busy:
        in_turn(attempt, seconds=0.2, undone="nothing was done")
    assert not isinstance(busy.value, LostRaceError)


@pytest.mark.parametrize("error", [LakeError("damaged"), LakeBusyError("locked"), KeyboardInterrupt()])
def test_other_errors_end_it_at_once(error):
    attempts = []

    def attempt() -> None:
        attempts.append(1)
        raise error

    with pytest.raises(type(error)):
        in_turn(attempt, seconds=60, undone="nothing was done")
    assert attempts == [1]
