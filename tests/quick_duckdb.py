"""DuckDB's `connect` with what makes opening and asking a small lake three times as fast: for tests only."""

from typing import Any

import duckdb

real_connect = duckdb.connect


def connect_quickly(database: str = ":memory:", *arguments: Any, **options: Any) -> duckdb.DuckDBPyConnection:
    """One thread, since each test process has one core. No check of the extensions' signatures, which takes .25 s each
    time; tests/unit/storage/connection/test_extensions.py checks them.
    """
    if database == ":memory:" and not arguments and not options:
        options["config"] = {"allow_unsigned_extensions": "true", "threads": "1"}
    return real_connect(database, *arguments, **options)
