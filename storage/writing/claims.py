"""Claims: which documents a run computes now, so that runs on other machines compute others.

A claim is a row with a lease in a table of its own beside the catalog on PostgreSQL. It expires by the server's clock
when its holder dies. Claims save work and decide nothing: the commit is what stores a document once. So a run whose
server does not answer goes on without claims.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ClassVar, Protocol

import duckdb

from logitlake.storage.connection.extensions import load_extension
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeError
from logitlake.storage.redaction import without_parts_of

log = logging.getLogger(__name__)

TABLE = "logitlake_claims"
# A number of this table alone: two runs that make the table at once would fail without the lock.
_LOCK = 6_103_218_447
_MAKE_TABLE = f"""DO $$ BEGIN
    PERFORM pg_advisory_xact_lock({_LOCK});
    CREATE TABLE IF NOT EXISTS {TABLE} (
        recipe_id text, doc_id text, holder text NOT NULL, expires_at timestamptz NOT NULL,
        PRIMARY KEY (recipe_id, doc_id));
END $$"""
_RENEWALS_PER_LEASE = 3
_REPORT_SECONDS = 60.0


class Claims(Protocol):
    """The claims of one run. `shared`: whether other runs may compute documents of the same lake."""

    @property
    def shared(self) -> bool: ...

    def of_others(self, doc_ids: Sequence[str]) -> set[str]:
        """Those that another living run has claimed under one of the recipes."""

    def take(self, doc_ids: Sequence[str]) -> set[str]:
        """Claim documents under all recipes; returns those that no other living run holds."""

    def release(self, doc_ids: Sequence[str]) -> None:
        """Give claims of this run back."""


class NoClaims:
    """Where only one capture runs at a time: every document is this run's."""

    shared = False

    def of_others(self, doc_ids: Sequence[str]) -> set[str]:
        return set()

    def take(self, doc_ids: Sequence[str]) -> set[str]:
        return set(doc_ids)

    def release(self, doc_ids: Sequence[str]) -> None:
        pass


@contextmanager
def claims_of(
    location: LakeLocation, *, holder: str, recipe_ids: Sequence[str], lease_seconds: float
) -> Iterator[Claims]:
    """The claims of the run `holder`, renewed until the end of the block and given back there.

    An embedded catalog has none: its lock admits one capture at a time.
    """
    if location.catalog_file is not None:
        yield NoClaims()
        return
    claims = ServerClaims(location, holder=holder, recipe_ids=tuple(recipe_ids), lease_seconds=lease_seconds)
    ended = threading.Event()
    renewal = threading.Thread(target=claims.keep_renewed, args=(ended,), name="renew-claims", daemon=True)
    renewal.start()
    try:
        yield claims
    finally:
        ended.set()
        renewal.join()
        claims.close()


@dataclass(eq=False)
class ServerClaims:
    """Claims in the PostgreSQL database of the catalog. May be called from several threads."""

    location: LakeLocation
    holder: str
    recipe_ids: tuple[str, ...]
    lease_seconds: float
    shared: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._turn = threading.Lock()
        self._silent_since: float | None = None

    def of_others(self, doc_ids: Sequence[str]) -> set[str]:
        """Those that another living run has claimed; none if the server does not answer."""
        return self._of_others(doc_ids) or set() if doc_ids else set()

    def take(self, doc_ids: Sequence[str]) -> set[str]:
        """As Claims says; all of them if the server does not answer."""
        if not doc_ids:
            return set()
        taking = (
            f"INSERT INTO {TABLE} SELECT r, d, {_text(self.holder)}, {self._expiry} "
            f"FROM unnest({_texts(self.recipe_ids)}) AS r, unnest({_texts(sorted(doc_ids))}) AS d "
            "ON CONFLICT (recipe_id, doc_id) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at "
            f"WHERE {TABLE}.holder = excluded.holder OR {TABLE}.expires_at < now()"
        )
        if not self._execute(taking):
            return set(doc_ids)
        taken = set(doc_ids) - (self._of_others(doc_ids) or set())
        # Of a document that another run claims under one of the recipes, this run wants none.
        self.release([doc_id for doc_id in doc_ids if doc_id not in taken])
        return taken

    def release(self, doc_ids: Sequence[str]) -> None:
        """Give claims of this run back."""
        if doc_ids:
            self._execute(f"{self._delete_own} AND doc_id = ANY({_texts(doc_ids)})")

    def keep_renewed(self, ended: threading.Event) -> None:
        """Move the end of this run's leases on until `ended` is set."""
        renewing = f"UPDATE {TABLE} SET expires_at = {self._expiry} WHERE holder = {_text(self.holder)}"
        while not ended.wait(self.lease_seconds / _RENEWALS_PER_LEASE):
            self._execute(renewing)

    def close(self) -> None:
        """Give back all claims of this run, and remove those that expired."""
        self._execute(f"DELETE FROM {TABLE} WHERE holder = {_text(self.holder)} OR expires_at < now()")
        with self._turn:
            self._disconnect()

    @property
    def _expiry(self) -> str:
        return f"now() + interval '{self.lease_seconds:.3f} seconds'"

    @property
    def _delete_own(self) -> str:
        return f"DELETE FROM {TABLE} WHERE holder = {_text(self.holder)} AND recipe_id = ANY({_texts(self.recipe_ids)})"

    def _of_others(self, doc_ids: Sequence[str]) -> set[str] | None:
        query = (
            f"SELECT DISTINCT doc_id FROM {TABLE} WHERE recipe_id = ANY({_texts(self.recipe_ids)}) "
            f"AND doc_id = ANY({_texts(doc_ids)}) AND holder <> {_text(self.holder)} AND expires_at >= now()"
        )
        rows = self._asked("SELECT doc_id FROM postgres_query('claims', ?)", query)
        return None if rows is None else {row[0] for row in rows}

    def _execute(self, statement: str) -> bool:
        return self._asked("CALL postgres_execute('claims', ?)", statement) is not None

    def _asked(self, call: str, statement: str) -> list[tuple[str]] | None:
        """The answer; None if the server gives none. A connection that failed is replaced once."""
        with self._turn:
            for last in (False, True):
                try:
                    answer: list[tuple[str]] = self._connected().execute(call, [statement]).fetchall()
                except (duckdb.Error, LakeError) as error:
                    self._disconnect()
                    if last:
                        self._note_silence(error)
                else:
                    self._silent_since = None
                    return answer
        return None

    def _connected(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            connection = duckdb.connect()
            self._connection = connection
            load_extension(connection, "postgres_scanner")
            address = self.location.catalog.removeprefix("postgres:")
            connection.execute(f"ATTACH {_text(address)} AS claims (TYPE postgres)")
            connection.execute("CALL postgres_execute('claims', ?)", [_MAKE_TABLE])
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(duckdb.Error):
                self._connection.close()
            self._connection = None

    def _note_silence(self, error: Exception) -> None:
        """Once a minute."""
        now = time.monotonic()
        if self._silent_since is None or now - self._silent_since >= _REPORT_SECONDS:
            self._silent_since = now
            reason = without_parts_of(self.location.catalog, str(error)).splitlines()[0]
            log.warning(
                "the catalog's server did not answer about claims (%s): this run goes on without them, and may compute "
                "documents that another run computes too; they are stored once",
                reason,
            )


def _texts(values: Sequence[str]) -> str:
    """A literal of PostgreSQL's type text[]."""
    return f"ARRAY[{', '.join(map(_text, values))}]::text[]"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
