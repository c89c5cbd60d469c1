"""One attached lake: making it, opening it, and the transaction of every commit.

Readers never wait. Writers to an embedded (SQLite) catalog hold one file lock from before BEGIN until after COMMIT.
Writers to a server all update the guard row, so that DuckLake lets only one of them commit.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from logitlake.storage.connection.attach import (
    CATALOG_ERRORS,
    attach,
    attach_or_make,
    missing_lake,
    set_time_zone,
    unreadable_catalog,
)
from logitlake.storage.connection.disk_errors import disk_problem, lake_folders
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.connection.open_connections import close, closing, signals_kept, stoppable
from logitlake.storage.connection.server_errors import server_is_away
from logitlake.storage.connection.turns import in_turn
from logitlake.storage.errors import (
    IntegrityError,
    LakeBusyError,
    LakeError,
    LakeMissingError,
    LostRaceError,
    OutOfMemoryError,
    UnreachableError,
)
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.creation import has_tables, make_or_migrate
from logitlake.storage.lake.durability import moment, sync_files_since
from logitlake.storage.lake.lake_settings import read_lake_settings
from logitlake.storage.lake.last_commit import note_commit, noted_commit
from logitlake.storage.lake.locks import commit_lock
from logitlake.storage.lake.lost_answers import has_landed, hold_files, mark, put_back
from logitlake.storage.lake.migration import check_format, is_current, migrate
from logitlake.storage.lake.overlay import MEMORY, lay_views
from logitlake.storage.redaction import without_secrets
from logitlake.storage.schema.row_hash import insert_rows
from logitlake.storage.schema.tables import NAME

log = logging.getLogger(__name__)


# The row of `lake_settings` that marks a catalog whose rebuild is not complete.
UNFINISHED = "rebuild_unfinished"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction: its commit number, and the connection that it runs on."""

    number: int
    connection: duckdb.DuckDBPyConnection

    def insert(self, table: str, rows: pa.Table) -> None:
        """Append rows to `store.<table>`, columns matched by name, each with its row hash: the one way to insert."""
        insert_rows(self.connection, table, rows)

    def refuse_later_commits(self, number: int) -> None:
        """Raises LostRaceError if there was a commit between the one of this number and this transaction."""
        if self.number != number + 1:
            raise LostRaceError(f"another commit came after number {number}: look again and retry")


class Lake:
    """A lake attached to its own DuckDB connection. Use as a context manager; not shared between threads."""

    def __init__(
        self,
        location: LakeLocation,
        connection: duckdb.DuckDBPyConnection,
        *,
        read_only: bool,
        lock_timeout: float,
        unfinished: bool = False,
    ):
        self.location = location
        self.connection = connection
        self.read_only = read_only
        # How many commits the note beside the data knows more than the catalog; 0 unless this is an older catalog.
        self.n_missing_commits = 0
        self._lock_timeout = lock_timeout
        self._database = NAME
        self._unfinished = unfinished
        self._in_transaction = False
        self.held_out_salt, self.held_out_share = self._read_settings(unfinished=unfinished)

    @classmethod
    def create(
        cls,
        location: LakeLocation,
        *,
        held_out_salt: str,
        held_out_share: float,
        created_at: str | None = None,
        lock_timeout: float = 60,
        over_data: bool = False,
    ) -> "Lake":
        """Open the lake for writing, and make it first if there is none. The held-out split is fixed at that moment.

        Raises LakeError if the data path holds a lake whose catalog is gone, unless `over_data` is set (rebuild): then
        the new lake is marked as unfinished until the mark is removed. Raises IntegrityError for an older catalog.
        """
        settings = {
            "held_out_salt": held_out_salt,
            "held_out_share": repr(held_out_share),
            "created_at": created_at or datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if over_data:
            settings[UNFINISHED] = "true"
        for directory in (location.state_directory, location.data_directory):
            if directory:
                directory.mkdir(parents=True, exist_ok=True)
        with commit_lock(location, lock_timeout):
            connection = attach_or_make(location)
            with _closed_on_error(connection):
                make_or_migrate(connection, location, settings, over_data=over_data)
        lake = cls(location, connection, read_only=False, lock_timeout=lock_timeout, unfinished=over_data)
        if not over_data:
            lake._compare_with_note()
        return lake

    @classmethod
    def open(cls, location: LakeLocation, *, read_only: bool = True, lock_timeout: float = 60) -> "Lake":
        """Open a lake that exists.

        A lake of an older logitlake gets the tables, columns and views of this one: in the catalog if it is opened for
        writing, else in the memory of this session. Raises LakeMissingError, FormatVersionError for a lake of a newer
        logitlake, and IntegrityError if an older catalog is opened for writing; readers log a warning.
        """
        if location.catalog_file and not location.catalog_file.exists():
            raise missing_lake(location)
        connection = attach(location, read_only=read_only, must_exist=True)
        with _closed_on_error(connection):
            try:
                if not has_tables(connection):
                    raise missing_lake(location)
                current = is_current(connection)
                if not read_only and not current:
                    _migrate(connection, location, lock_timeout)
                lake = cls(location, connection, read_only=read_only, lock_timeout=lock_timeout)
                lake._compare_with_note()
                if read_only and not current:
                    lake.show_only({})
            except CATALOG_ERRORS as error:
                raise_for_lack_of_memory(error)
                raise unreadable_catalog(location, error) from error
        return lake

    def __enter__(self) -> "Lake":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Anything not committed is rolled back."""
        close(self.connection)

    def for_thread(self) -> "Lake":
        """The same attached lake on another connection, for another thread. It is closed with this one.

        It takes milliseconds; attaching anew takes half a second, most of it to check the extensions' signatures.
        Raises LakeError like `sql`.
        """
        connection = stoppable(self.connection.cursor())
        with self._answering():
            set_time_zone(connection)
            connection.execute(f"USE {self._database}")
        lake = Lake(self.location, connection, read_only=self.read_only, lock_timeout=self._lock_timeout)
        lake._database = self._database
        return lake

    def show_only(self, conditions: Mapping[str, str]) -> None:
        """In this session, let tables and views show only the rows that fulfil `conditions` (SQL by table)."""
        lay_views(self.connection, conditions)
        self._database = MEMORY

    @property
    def database(self) -> str:
        """The database that the names of tables and views belong to in this session."""
        return self._database

    def sql(self, query: str, parameters: list[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """Run one query and return all of its rows. Raises LakeError with the message of DuckDB.

        Outside of a transaction, a catalog's server that is away is asked again, for as long as this lake waits for its
        lock.
        """

        def ask() -> pa.Table:
            with self._answering(), signals_kept(self.connection):
                return self.connection.execute(query, parameters or []).to_arrow_table()

        if self.location.catalog_file or self._in_transaction:
            return ask()
        return in_turn(ask, seconds=self._lock_timeout, undone="the lake did not answer")

    def batches(self, query: str, n_rows: int) -> Iterator[pa.Table]:
        """The rows of one query, `n_rows` at a time, on another connection. Raises LakeError like `sql`."""
        with closing(self.connection.cursor()) as cursor, signals_kept(cursor), self._answering():
            set_time_zone(cursor)
            cursor.execute(f"USE {self._database}")
            for batch in cursor.execute(query).to_arrow_reader(n_rows):
                yield pa.Table.from_batches([batch])

    def row(self, query: str, parameters: list[Any] | Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The first row of a query by column name; empty if there is none."""
        rows = self.sql(query, parameters).slice(0, 1).to_pylist()
        return rows[0] if rows else {}

    @property
    def commit_number(self) -> int:
        """The number of the last commit."""
        return int(self.row("SELECT commit_number FROM store.guard")["commit_number"])

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Everything inside is committed together with a raised commit number, or not at all.

        Raises LakeBusyError if the lock is not free in time, and LostRaceError if another commit came first: what was
        read before may be stale, so the caller must read again and never just repeat its statements.
        """
        with commit_lock(self.location, self._lock_timeout):
            began = moment()
            self.connection.execute("BEGIN")
            self._in_transaction = True
            try:
                with signals_kept(self.connection):
                    self.connection.execute("UPDATE store.guard SET commit_number = commit_number + 1")
                    row = self.connection.execute("SELECT commit_number FROM store.guard").fetchone()
                    assert row is not None
                    reach("transaction-open")
                    yield Transaction(row[0], self.connection)
                    reach("rows-registered")
                    sync_files_since(self.location, began)
                    self._commit(began)
                    reach("committed")
                    self._note_commit()
            except duckdb.Error as error:
                self._rollback()
                raise_for_lack_of_memory(error)
                self._raise_if_away(error)
                raise LakeError(f"the transaction failed and was rolled back: {self._reason(error)}") from error
            except BaseException:
                self._rollback()
                raise
            finally:
                self._in_transaction = False

    def change(self, body: Callable[[Transaction], Result]) -> Result:
        """Call `body` in a transaction, and in a new one each time that another commit came first; returns its result.

        For bodies that only insert, or that read again what they depend on. Raises LakeBusyError as `transaction` and
        `in_turn` do.
        """

        def attempt() -> Result:
            with self.transaction() as transaction:
                return body(transaction)

        return self.in_turn(attempt)

    def in_turn(self, attempt: Callable[[], Result], undone: str = "nothing was changed") -> Result:
        """Call `attempt`, and again each time that another commit came first or the catalog's server went away. Raises
        LakeBusyError if that goes on for as long as this lake waits for its lock."""

        def guarded() -> Result:
            try:
                return attempt()
            except duckdb.Error as error:
                self._raise_if_away(error)
                raise

        return in_turn(guarded, seconds=self._lock_timeout, undone=undone)

    @contextmanager
    def catalog_change(self) -> Iterator[None]:
        """A transaction of DuckLake's own upkeep, within `exclusive`: it raises no commit number. Raises LostRaceError
        as `transaction` does."""
        began = moment()
        self.connection.execute("BEGIN")
        self._in_transaction = True
        try:
            yield
            self._commit(began)
        except BaseException:
            self._rollback()
            raise
        finally:
            self._in_transaction = False

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the commit lock for upkeep that DuckLake does in its own transactions, and sync the files it wrote."""
        with commit_lock(self.location, self._lock_timeout):
            began = moment()
            with signals_kept(self.connection):
                yield
            sync_files_since(self.location, began)

    def _commit(self, began: float) -> None:
        """COMMIT. If the server's answer is lost, the commit may have landed: its files are put back, and the server is
        asked. Raises UnreachableError if it has not landed."""
        on_server = self.location.catalog_file is None
        files = hold_files(self.location, began) if on_server else {}
        commit_id = mark(self.connection) if on_server else ""
        try:
            self.connection.execute("COMMIT")
        except duckdb.Error as error:
            raise_for_lack_of_memory(error)
            text = str(error)
            if is_conflict(error):
                raise LostRaceError(
                    f"another commit came first ({text.splitlines()[-1]}): look again and retry"
                ) from error
            if not on_server:
                raise LakeError(f"the commit failed and was rolled back: {self._reason(error)}") from error
            put_back(self.location, files)
            if not self._has_landed(commit_id, error):
                raise UnreachableError(f"the commit failed and was rolled back: {self._reason(error)}") from error
            log.warning("the answer to a commit was lost (%s); it has landed", self._reason(error))

    def _has_landed(self, commit_id: str, lost: duckdb.Error) -> bool:
        """Ask the server, for as long as this lake waits for its lock. Raises LakeError if it stays away."""

        def ask() -> bool:
            try:
                return has_landed(self.connection, commit_id)
            except duckdb.Error as error:
                raise UnreachableError(str(error)) from error

        try:
            return in_turn(ask, seconds=self._lock_timeout, undone="nobody knows whether the commit has landed")
        except LakeBusyError as error:
            raise LakeError(
                f"the commit failed and may have landed: run again, which looks first: {self._reason(lost)}. {error}"
            ) from lost

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Errors of the database inside become LakeError with the reason."""
        try:
            yield
        except (*CATALOG_ERRORS, pa.ArrowException) as error:
            raise_for_lack_of_memory(error)
            self._raise_if_away(error)
            raise LakeError(f"the lake could not answer: {self._reason(error)}") from error

    def _raise_if_away(self, error: Exception) -> None:
        """Raises UnreachableError if the catalog is on a server that went away."""
        if self.location.catalog_file is None and server_is_away(error):
            raise UnreachableError(f"the catalog's server went away ({self._reason(error)}): run again") from error

    def _reason(self, error: Exception) -> str:
        return disk_problem(error, lake_folders(self.location)) or str(error)

    def _compare_with_note(self) -> None:
        """Find a catalog that knows less than its data: an error for a writer, a warning for a reader.

        The note is read first, because another process may commit in between.
        """
        noted = noted_commit(self.connection, self.location)
        self.n_missing_commits = max(0, noted - self.commit_number) if noted else 0
        if not self.n_missing_commits:
            return
        if not self.read_only:
            raise IntegrityError(f"{self.missing_history}. Nothing was changed")
        log.warning(self.missing_history)

    @property
    def missing_history(self) -> str:
        """What a person reads about a catalog that is older than its data; empty if it is not."""
        if not self.n_missing_commits:
            return ""
        commits = "commit" if self.n_missing_commits == 1 else "commits"
        return (
            f"{self.location.data} was written by {self.n_missing_commits} {commits} that the catalog "
            f"{without_secrets(self.location.catalog)} does not know: the catalog is an older copy. Put the newer "
            "catalog back, or move this one away and run `logitlake rebuild`, which makes it again from all files"
        )

    def _note_commit(self) -> None:
        """Note the number that the catalog has by now; a rebuild does it once, when its catalog is in place.

        A slow writer may have written a smaller number over a larger one, so the catalog is asked again. The commit has
        landed: no failure here makes it fail.
        """
        if self._unfinished:
            return
        noted = -1
        try:
            while (number := self.commit_number) > noted:
                note_commit(self.connection, self.location, number)
                noted = number
        except (LakeError, OutOfMemoryError) as error:
            log.warning("the number of the last commit could not be noted (%s): the next commit notes it", error)

    def _rollback(self) -> None:
        try:
            self.connection.execute("ROLLBACK")
        except duckdb.Error:
            return  # a failed COMMIT has ended the transaction already

    def _read_settings(self, *, unfinished: bool) -> tuple[str, float]:
        check_format(self.connection)
        try:
            values = read_lake_settings(self.connection)
        except LakeError:
            self.connection.close()
            raise
        if UNFINISHED in values and not unfinished:
            self.connection.close()
            raise LakeError(
                f"the catalog {self.location.catalog} is not complete, because a rebuild was stopped "
                "or is still running: run `logitlake rebuild` again, which completes it"
            )
        if "views" not in values:
            # Tables and views are made in two transactions: a reader may come in between.
            self.connection.close()
            raise LakeMissingError(
                f"the lake {self.location.catalog} is just being made, or its creation was stopped: try again; "
                "`logitlake capture` creates what is missing"
            )
        return values["held_out_salt"], float(values["held_out_share"])


def is_conflict(error: Exception) -> bool:
    """Whether DuckLake refused a change because another writer's commit came first."""
    text = str(error).lower()
    return "conflict" in text or "locked" in text


def _migrate(connection: duckdb.DuckDBPyConnection, location: LakeLocation, lock_timeout: float) -> None:
    with commit_lock(location, lock_timeout):
        began = moment()
        migrate(connection, location)
        sync_files_since(location, began)


@contextmanager
def _closed_on_error(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise
