"""One read-only question to the lake, for people and programs that should not be able to change it.

DuckDB's own settings do not make a session read-only (`COPY … TO` inside the data path and DuckLake's maintenance
functions stay possible), so the statement is parsed first: one SELECT, no function that reaches outside the lake.
"""

import json
from typing import Any

import duckdb
import pyarrow as pa

from storage.errors import QueryError
from storage.lake import Lake
from storage.location import LakeLocation

# Table functions that only compute or list. Any other (read_csv, ducklake_cleanup_old_files, …) is refused.
_TABLE_FUNCTIONS = frozenset(
    {
        "range",
        "generate_series",
        "unnest",
        "repeat",
        "duckdb_columns",
        "duckdb_tables",
        "duckdb_views",
        "duckdb_functions",
    }
)
_FORBIDDEN_SCALARS = frozenset({"getenv", "read_text", "read_blob", "query", "query_table", "write_log", "nextval"})


def query(location: LakeLocation, sql: str) -> pa.Table:
    """Answer one SELECT over the views of the lake. Raises QueryError for anything else, or with what DuckDB said."""
    _check(sql)
    with Lake.open(location, read_only=True) as lake:
        for setting in ("autoload_known_extensions = false", "autoinstall_known_extensions = false"):
            lake.connection.execute(f"SET {setting}")
        lake.connection.execute("SET lock_configuration = true")
        try:
            return lake.connection.execute(sql).to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(f"the query failed: {error}") from None


def _check(sql: str) -> None:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(f"not valid SQL: {error}") from None
    if len(statements) != 1:
        raise QueryError(f"expected one statement, found {len(statements)}: send them one by one")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError(
            f"expected a SELECT, found {statements[0].type.name}: this session only reads; use `logitlake` commands to "
            "change the lake"
        )
    for name in sorted(_forbidden(sql)):
        raise QueryError(f"{name}: not available here, since it reaches outside the lake's views")


def _forbidden(sql: str) -> set[str]:
    row = duckdb.connect().execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    tree = json.loads(row[0]) if row else {}
    if tree.get("error"):
        # DESCRIBE and SUMMARIZE are SELECTs that can't be written as a tree; they name one relation and read it.
        return set() if sql.lstrip().lower().startswith(("describe", "summarize", "show")) else {tree["error_message"]}
    return _walk(tree)


def _walk(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(_walk, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    found: set[str] = set()
    if node.get("type") == "TABLE_FUNCTION":
        name = (node.get("function") or {}).get("function_name", "")
        if name not in _TABLE_FUNCTIONS:
            found.add(f"table function {name}")
    elif node.get("class") == "FUNCTION" and node.get("function_name") in _FORBIDDEN_SCALARS:
        found.add(f"function {node['function_name']}")
    elif node.get("type") == "BASE_TABLE" and any(mark in node.get("table_name", "") for mark in "./*"):
        found.add(f"file {node['table_name']}")
    for value in node.values():
        found |= _walk(value)
    return found
