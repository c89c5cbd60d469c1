"""SQL as DuckDB parses it: for judging what a statement would do before it is run."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import duckdb

from logitlake.storage.errors import QueryError

# A message of DuckDB that quotes a part of a query may be cut inside a character.
SQL_ERRORS: tuple[type[Exception], ...] = (duckdb.Error, UnicodeDecodeError)


def parse_select(sql: str) -> dict[str, Any]:
    """The syntax tree of one SELECT. Raises QueryError for what does not parse or is no SELECT."""
    with _parser().cursor() as connection:
        row = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    assert row is not None
    tree: dict[str, Any] = json.loads(row[0])
    if tree.get("error"):
        raise QueryError(tree.get("error_message", "not a SELECT"))
    return tree


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    """One database for all parsing, with nothing in it: making one takes much longer than parsing a statement."""
    return duckdb.connect(config={"threads": 1})


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a syntax tree."""
    if isinstance(tree, list):
        for item in tree:
            yield from nodes(item)
    elif isinstance(tree, dict):
        yield tree
        for item in tree.values():
            yield from nodes(item)


def functions(tree: Any) -> set[str]:
    """Names of the scalar and aggregate functions that are called."""
    return {node["function_name"] for node in nodes(tree) if node.get("class") == "FUNCTION"}


def has_subquery(tree: Any) -> bool:
    """Whether an expression asks another table."""
    return any(node.get("class") == "SUBQUERY" for node in nodes(tree))


def has_window_function(tree: Any) -> bool:
    """Whether an expression looks at other rows than its own."""
    return any(node.get("class") == "WINDOW" for node in nodes(tree))


def is_sampled(tree: Any) -> bool:
    """Whether some rows are drawn at random."""
    return any(node.get("sample") or node.get("type") == "SAMPLE_MODIFIER" for node in nodes(tree))


@cache
def unstable_functions() -> frozenset[str]:
    """Functions whose answer is not decided by their arguments, such as `random` and `now`."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
        ).fetchall()
    return frozenset(row[0] for row in rows)
