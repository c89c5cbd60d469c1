"""Read-only sessions, for people and programs that should not be able to change the lake.

Two protections: a statement is checked before it is run (`read_only`), and the session can open no file outside the
lake, load no extension and change no setting.
"""

import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from logitlake.storage.connection.disk_errors import disk_problem, lake_folders
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.memory_errors import lack_of_memory
from logitlake.storage.errors import LakeError, QueryError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.schema.tables import NAME
from logitlake.storage.sql.read_only import check_query
from logitlake.storage.sql.scope import Scope, forgotten_since, narrow
from logitlake.storage.sql.sql_tree import SQL_ERRORS
from logitlake.storage.staging import staged_beside

_SETTINGS = (
    "autoload_known_extensions = false",
    "autoinstall_known_extensions = false",
    "python_enable_replacements = false",
    "enable_external_access = false",
    "lock_configuration = true",
)
_BATCH_ROWS = 100_000


class ReadSession:
    """A session that can only read, one statement at a time. A context manager; not shared between threads.

    `as_of` shows the lake as it was at that commit number; `forgotten_since` is the number of documents that were
    forgotten since then. `held_out=False` shows it without the held-out documents. `memory_limit` is what DuckDB may
    use, such as "2GB".
    """

    def __init__(
        self,
        location: LakeLocation,
        *,
        as_of: int | None = None,
        held_out: bool = True,
        memory_limit: str | None = None,
    ) -> None:
        narrowed = as_of is not None or not held_out
        self._lake = Lake.open(location, read_only=True)
        self._spill = tempfile.TemporaryDirectory(prefix="logitlake-sql-", ignore_cleanup_errors=True)
        self.forgotten_since = 0
        try:
            if as_of is not None:
                self.forgotten_since = forgotten_since(self._lake, as_of)
            if narrowed:
                narrow(self._lake, Scope(as_of=as_of, held_out=held_out))
            # The views of a lake of an older logitlake are made anew in memory; its own can be named as well.
            self._catalogs = frozenset({self._lake.database} if narrowed else {self._lake.database, NAME})
            self._close_off(location, memory_limit)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "ReadSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the lake, and remove what was written to disk because memory was too small."""
        self._lake.close()
        self._spill.cleanup()

    def ask(self, sql: str, *, timeout: float | None = None) -> pa.Table:
        """Run one SELECT. Raises QueryError for anything else, with the message of DuckDB, or when the time is over."""
        with self._running(sql, timeout) as result:
            return result.to_arrow_table()

    @contextmanager
    def batches(self, sql: str, *, timeout: float | None = None) -> Iterator[pa.RecordBatchReader]:
        """The answer a batch at a time, for results that need not be held at once."""
        with self._running(sql, timeout) as result:
            yield result.to_arrow_reader(_BATCH_ROWS)

    def n_damaged(self) -> int:
        """How many documents, and files of small tables, are known to be damaged (view `damage`)."""
        return int(self._lake.row("SELECT count(*) AS n FROM store.damage")["n"])

    def names(self) -> list[str]:
        """Views, columns and macros that a query may name."""
        rows = self.ask("SELECT DISTINCT unnest([regexp_extract(name, '^\\w+'), column_name]) AS name FROM dictionary")
        return sorted(name for name in rows["name"].to_pylist() if name)

    @contextmanager
    def _running(self, sql: str, timeout: float | None) -> Iterator[duckdb.DuckDBPyConnection]:
        check_query(sql, catalogs=self._catalogs)
        try:
            with interruptible(self._lake.connection, timeout):
                yield self._lake.connection.execute(sql)
        except (*SQL_ERRORS, pa.ArrowException) as error:
            if problem := lack_of_memory(error):
                raise QueryError(f"the query failed: {problem}") from None
            folders = [Path(self._spill.name), *lake_folders(self._lake.location)]
            if problem := disk_problem(error, folders):
                raise LakeError(f"the query failed: {problem}") from None
            raise QueryError(f"the query failed: {error}") from None

    def _close_off(self, location: LakeLocation, memory_limit: str | None) -> None:
        connection = self._lake.connection
        if memory_limit:
            try:
                connection.execute("SET memory_limit = ?", [memory_limit])
            except duckdb.Error as error:
                raise QueryError(f"memory limit {memory_limit!r}: expected a size such as 2GB ({error})") from None
        connection.execute("SET temp_directory = ?", [self._spill.name])
        connection.execute("SET allowed_directories = ?", [[location.data]])
        for setting in _SETTINGS:
            connection.execute(f"SET {setting}")


def query(location: LakeLocation, sql: str) -> pa.Table:
    """Run one SELECT over the views of the lake. Raises QueryError for anything else, or with the message of DuckDB."""
    with ReadSession(location) as session:
        return session.ask(sql)


@contextmanager
def interruptible(connection: duckdb.DuckDBPyConnection, timeout: float | None) -> Iterator[None]:
    """Stop what runs inside on Ctrl-C (KeyboardInterrupt) or after `timeout` seconds (QueryError).

    DuckDB's own signal handling returns while the query still runs, and the next query waits for it; `interrupt` really
    stops the query.
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


def write_parquet(session: ReadSession, sql: str, path: Path, *, timeout: float | None = None) -> int:
    """Write it, and return the number of rows.

    Raises QueryError for a query that fails or a path that can't be written.
    """
    staged = staged_beside(path.absolute())
    n_rows = 0
    try:
        with (
            session.batches(sql, timeout=timeout) as batches,
            staged.open("wb") as file,
            pq.ParquetWriter(file, batches.schema, compression="zstd") as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
                n_rows += batch.num_rows
        staged.replace(path)
    except OSError as error:
        if problem := disk_problem(error, [staged.parent]):
            raise LakeError(f"{path}: can't be written: {problem}") from None
        raise QueryError(f"{path}: can't be written ({error.strerror or error})") from None
    finally:
        staged.unlink(missing_ok=True)
    return n_rows
