"""Changes of the catalog's own objects: tables, columns, views, options. Another process may make the same ones."""

import contextlib
from collections.abc import Callable, Iterator

import duckdb

from logitlake.storage.connection.disk_errors import disk_problem, lake_folders
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.turns import in_turn
from logitlake.storage.errors import LakeError, LostRaceError

_SECONDS = 20.0
# What DuckDB and SQLite say where another attempt can't help, and what a person can do.
_ADVICE = {
    "readonly database": "check that the catalog's folder and file may be written",
    "Permission denied": "check that the catalog and the data path may be written",
    "Read-only file system": "check that the catalog and the data path may be written",
}


@contextlib.contextmanager
def catalog_transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """One transaction. After an error it is rolled back and the error of the statement is raised, not that of ROLLBACK:
    a failed COMMIT has ended the transaction already."""
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise


def repeat_if_overtaken(change: Callable[[], None], location: LakeLocation) -> None:
    """Call `change`, and again if the database refused it because another process changed the catalog first.

    `change` reads what is missing each time that it is called: once another process has made everything, it does
    nothing. Raises LakeBusyError if the database refuses it too often, and LakeError at once if the disk is full or may
    not be written.
    """

    def attempt() -> None:
        try:
            change()
        except duckdb.Error as error:
            if problem := disk_problem(error, lake_folders(location)):
                raise LakeError(f"the catalog could not be changed: {problem}") from error
            if advice := next((advice for sign, advice in _ADVICE.items() if sign in str(error)), None):
                raise LakeError(f"the catalog could not be changed ({error}): {advice}") from error
            raise LostRaceError(str(error)) from error

    in_turn(attempt, seconds=_SECONDS, undone="the lake could not be brought up to the format of this logitlake")
