"""Which errors say that the catalog's server went away, as DuckDB gave them when it did."""

import duckdb
import pytest

from logitlake.storage.connection.server_errors import server_is_away
from logitlake.storage.connection.turns import in_turn
from logitlake.storage.errors import LakeBusyError, UnreachableError

AWAY = (
    'IO Error: Unable to connect to Postgres at "host=db": connection to server at "db", port 5432 failed: Connection '
    "refused\n\tIs the server running on that host and accepting TCP/IP connections?",
    'TransactionContext Error: Failed to commit: Failed to execute query "COMMIT": server closed the connection '
    "unexpectedly\n\tThis probably means the server terminated abnormally",
    'TransactionContext Error: Failed to commit: Failed to execute query "ROLLBACK": ',
    "FATAL:  the database system is starting up",
)
NOT_AWAY = (
    'Unable to connect to Postgres at "host=db": connection to server at "db", port 5432 failed: FATAL:  password '
    'authentication failed for user "lake"',
    'connection to server at "db", port 5432 failed: FATAL:  database "lake" does not exist',
    'could not translate host name "db" to address: Name or service not known',
    "Binder Error: Referenced column not found in FROM clause",
)


@pytest.mark.parametrize("text", AWAY)
def test_a_server_that_went_away_is_worth_another_attempt(text):
    assert server_is_away(duckdb.Error(text))


@pytest.mark.parametrize("text", NOT_AWAY)
def test_what_can_not_get_better_by_itself_is_not_tried_again(text):
    assert not server_is_away(duckdb.Error(text))


def test_a_server_that_stays_away_is_named_when_the_time_is_over():
    def attempt() -> None:
        raise UnreachableError("Connection refused")

    with pytest.raises(LakeBusyError, match=r"was away for 0.01 s .* nothing was changed.*Connection refused") as busy:
        in_turn(attempt, seconds=0.01, undone="nothing was changed")
    assert not isinstance(busy.value, UnreachableError), "whoever tries again must not begin anew"
