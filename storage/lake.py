"""One attached lake: making it, opening it, and the transaction that every commit goes through.

Readers never wait. Writers to an embedded (SQLite) catalog hold one file lock from before BEGIN until after COMMIT;
writers to a server meet at the guard row, where DuckLake lets one of them win.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from types import TracebackType
from typing import Any

import duckdb
import filelock
import pyarrow as pa

from storage.errors import FormatVersionError, LakeBusyError, LakeError, LakeMissingError
from storage.extensions import load_extension
from storage.failpoints import reach
from storage.identity import digest, held_out_bound
from storage.location import LakeLocation
from storage.object_store import configure_object_store, put_bytes
from storage.schema import FORMAT_VERSION

NAME = "lake"
_CATALOG_RETRIES = 100


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction: its commit number, and the connection that it runs on."""

    number: int
    connection: duckdb.DuckDBPyConnection

    def insert(self, table: str, rows: pa.Table) -> None:
        """Append rows to `store.<table>`, columns matched by name."""
        if rows.num_rows:
            self.connection.register("incoming_rows", rows)
            self.connection.execute(f"INSERT INTO {NAME}.store.{table} BY NAME SELECT * FROM incoming_rows")
            self.connection.unregister("incoming_rows")


class Lake:
    """A lake attached to a DuckDB connection of its own. Use as a context manager; not shared between threads."""

    def __init__(
        self, location: LakeLocation, connection: duckdb.DuckDBPyConnection, *, read_only: bool, lock_timeout: float
    ):
        self.location = location
        self.connection = connection
        self.read_only = read_only
        self._lock_timeout = lock_timeout
        self.held_out_salt, self.held_out_share = self._read_settings()

    @classmethod
    def create(
        cls, location: LakeLocation, *, held_out_salt: str, held_out_share: float, lock_timeout: float = 60
    ) -> "Lake":
        """Open the lake for writing, and make it first if there is none. The split is fixed at that moment."""
        for directory in (location.state_directory, location.data_directory):
            if directory:
                directory.mkdir(parents=True, exist_ok=True)
        with commit_lock(location, lock_timeout):
            connection = _attach(location, read_only=False)
            if not _has_tables(connection):
                _make_tables(connection, location, held_out_salt, held_out_share)
            elif _needs_views(connection):
                _make_views(connection)
        return cls(location, connection, read_only=False, lock_timeout=lock_timeout)

    @classmethod
    def open(cls, location: LakeLocation, *, read_only: bool = True, lock_timeout: float = 60) -> "Lake":
        """Open a lake that exists. Raises LakeMissingError, or FormatVersionError for a lake of a newer logitlake."""
        if location.catalog_file and not location.catalog_file.exists():
            raise LakeMissingError(
                f"no lake at {location.catalog_file}: `logitlake capture` makes one; "
                "`logitlake rebuild` makes the catalog again if the data path still holds shards"
            )
        connection = _attach(location, read_only=read_only)
        if not _has_tables(connection):
            raise LakeMissingError(f"the catalog {location.catalog} holds no lake: `logitlake capture` makes one")
        return cls(location, connection, read_only=read_only, lock_timeout=lock_timeout)

    def __enter__(self) -> "Lake":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the catalog. Anything not committed is rolled back."""
        self.connection.close()

    def sql(self, query: str, parameters: list[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """Run one query and return all of its rows. Raises LakeError with what DuckDB said."""
        try:
            return self.connection.execute(query, parameters or []).to_arrow_table()
        except duckdb.Error as error:
            raise LakeError(f"the lake could not answer: {error}") from error

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
        """Everything inside lands together with a raised commit number, or not at all.

        Raises LakeBusyError if the lock can't be had in time, or if another commit won the guard row: what the loser
        read before may be stale, so it must look again, never replay.
        """
        with commit_lock(self.location, self._lock_timeout):
            self.connection.execute("BEGIN")
            try:
                self.connection.execute("UPDATE store.guard SET commit_number = commit_number + 1")
                found = self.connection.execute("SELECT commit_number FROM store.guard").fetchone()
                assert found is not None
                reach("transaction-open")
                yield Transaction(found[0], self.connection)
                reach("rows-registered")
                self._commit()
                reach("committed")
            except BaseException:
                self._rollback()
                raise

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the commit lock for upkeep that DuckLake does in transactions of its own."""
        with commit_lock(self.location, self._lock_timeout):
            yield

    def _commit(self) -> None:
        try:
            self.connection.execute("COMMIT")
        except duckdb.Error as error:
            text = str(error)
            if "conflict" in text.lower() or "locked" in text.lower():
                raise LakeBusyError(
                    f"another commit came first ({text.splitlines()[0]}): look again and retry"
                ) from error
            raise LakeError(f"the commit failed and was rolled back: {text}") from error

    def _rollback(self) -> None:
        try:
            self.connection.execute("ROLLBACK")
        except duckdb.Error:
            return  # a failed COMMIT has ended the transaction already

    def _read_settings(self) -> tuple[str, float]:
        _check_format(self.connection)
        values = dict(self.connection.execute("SELECT name, value FROM store.lake_settings").fetchall())
        return values["held_out_salt"], float(values["held_out_share"])


@contextmanager
def commit_lock(location: LakeLocation, timeout: float) -> Iterator[None]:
    """Hold the one lock for writers of an embedded catalog; a server needs none."""
    if location.catalog_file is None:
        yield
        return
    lock = filelock.FileLock(f"{location.catalog_file}.lock")
    try:
        with lock.acquire(timeout=timeout):
            yield
    except filelock.Timeout:
        raise LakeBusyError(
            f"the commit lock {lock.lock_file} was not free within {timeout:g} s: another process is committing; "
            "try again, or raise lake.lock_timeout_seconds"
        ) from None


@contextmanager
def single_writer(location: LakeLocation, task: str) -> Iterator[None]:
    """Refuse to run `task` (such as "capture") twice at once on an embedded lake, at once and by name."""
    if location.state_directory is None:
        yield
        return
    location.state_directory.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(location.state_directory / f"{task}.lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except filelock.Timeout:
        raise LakeBusyError(
            f"another {task} is running on this lake (it holds {lock.lock_file}): wait for it, or stop it"
        ) from None


def _attach(location: LakeLocation, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    # DuckLake compares times as text in places: the machine's own time zone must not decide.
    connection.execute("SET TimeZone = 'UTC'")
    load_extension(connection, "ducklake")
    load_extension(connection, "sqlite_scanner" if location.catalog_file else "postgres_scanner")
    configure_object_store(connection, location)
    connection.execute(f"SET ducklake_max_retry_count = {_CATALOG_RETRIES}")
    options = [f"DATA_PATH {_quoted(location.data)}", "OVERRIDE_DATA_PATH true"]
    if location.catalog_file:
        options.append("META_JOURNAL_MODE 'WAL'")
    if read_only:
        options.append("READ_ONLY")
    try:
        connection.execute(f"ATTACH {_quoted(f'ducklake:{location.catalog}')} AS {NAME} ({', '.join(options)})")
        connection.execute(f"USE {NAME}")
    except duckdb.Error as error:
        connection.close()
        hidden = re.sub(r"password=\S+|:[^:@/\s]+@", "***", location.catalog)
        raise LakeError(
            f"the catalog {hidden} can't be opened: {error}. Check the path or connection, that it is a DuckLake "
            "catalog, and that its folder is writable (SQLite's WAL needs that even for reading)"
        ) from error
    return connection


def _has_tables(connection: duckdb.DuckDBPyConnection) -> bool:
    found = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE (database_name, schema_name, table_name) = (?, 'store', 'guard')",
        [NAME],
    ).fetchone()
    return bool(found and found[0])


def _check_format(connection: duckdb.DuckDBPyConnection) -> None:
    found = connection.execute("SELECT format_version FROM store.guard").fetchone()
    version = found[0] if found else None
    if version is None or version > FORMAT_VERSION:
        connection.close()
        raise FormatVersionError(
            f"the lake has format version {version}, this logitlake reads up to {FORMAT_VERSION}: upgrade logitlake "
            "(pip install --upgrade logitlake); nothing was changed"
        )


def _make_tables(
    connection: duckdb.DuckDBPyConnection, location: LakeLocation, held_out_salt: str, held_out_share: float
) -> None:
    """Tables, settings and views in one transaction; the settings also as a small file beside the data."""
    settings = {
        "held_out_salt": held_out_salt,
        "held_out_share": repr(held_out_share),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    connection.execute("BEGIN")
    for statement in statements("tables.sql"):
        connection.execute(statement)
    connection.execute("INSERT INTO store.guard VALUES (0, ?)", [FORMAT_VERSION])
    connection.executemany("INSERT INTO store.lake_settings VALUES (?, ?)", list(settings.items()))
    connection.execute("COMMIT")
    # Small deletes must show up in the list of files, and every table must be there in the data path; the guard row
    # alone changes with every commit and is nothing that a rebuild needs.
    connection.execute(f"CALL {NAME}.set_option('data_inlining_row_limit', 0)")
    connection.execute(
        f"CALL {NAME}.set_option('data_inlining_row_limit', 10, schema => 'store', table_name => 'guard')"
    )
    for option, value in (
        ("parquet_compression", "zstd"),
        ("parquet_compression_level", "19"),
        ("parquet_version", "2"),
    ):
        connection.execute(f"CALL {NAME}.set_option(?, ?)", [option, value])
    _make_views(connection)
    write_note(location, "lake.json", {"format_version": FORMAT_VERSION, **settings})


def _needs_views(connection: duckdb.DuckDBPyConnection) -> bool:
    found = connection.execute("SELECT value FROM store.lake_settings WHERE name = 'views'").fetchall()
    return not found or found[-1][0] != _views_version()


def _make_views(connection: duckdb.DuckDBPyConnection) -> None:
    _check_format(connection)
    values = dict(connection.execute("SELECT name, value FROM store.lake_settings").fetchall())
    bound = held_out_bound(float(values["held_out_share"]))
    rule = f"(('0x' || substr(sha256({_quoted(values['held_out_salt'])} || ':' || s.doc_id), 1, 8))::BIGINT < {bound})"
    connection.execute("BEGIN")
    for statement in statements("views.sql"):
        connection.execute(statement.replace("$held_out", rule))
    connection.execute("DELETE FROM store.lake_settings WHERE name = 'views'")
    connection.execute("INSERT INTO store.lake_settings VALUES ('views', ?)", [_views_version()])
    connection.execute("COMMIT")


def _views_version() -> str:
    return digest(files("storage").joinpath("views.sql").read_bytes())


def statements(name: str) -> list[str]:
    """The statements of a SQL file of this package."""
    connection = duckdb.connect()
    text = files("storage").joinpath(name).read_text(encoding="utf-8")
    return [statement.query for statement in connection.extract_statements(text)]


def write_note(location: LakeLocation, name: str, content: Mapping[str, Any]) -> None:
    """Write a small JSON file beside the data, whole or not at all: what `rebuild` starts from."""
    put_bytes(location, name, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode())


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
