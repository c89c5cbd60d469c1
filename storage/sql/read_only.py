"""What a read-only session may run: one SELECT that reads nothing outside the views of the lake.

DuckDB's own settings do not make a session read-only (`COPY … TO` inside the data path, another ATTACH and DuckLake's
maintenance functions stay possible), so a statement is checked by its syntax tree before it is run: which kind it is,
which tables and table functions it names, which scalar functions it calls, however deep. Table functions are allowed by
name.
"""

import re

import duckdb

from logitlake.storage.errors import QueryError
from logitlake.storage.schema.tables import NAME
from logitlake.storage.sql.sql_tree import SQL_ERRORS, functions, nodes, parse_select

# Table functions that only compute, or list what is in the session. Any other (read_csv, ducklake_…, query) is refused.
_TABLE_FUNCTIONS = frozenset(
    {
        *("range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree"),
        *("duckdb_columns", "duckdb_constraints", "duckdb_functions", "duckdb_keywords", "duckdb_schemas"),
        *("duckdb_tables", "duckdb_types", "duckdb_views"),
    }
)
_FORBIDDEN_SCALARS = frozenset(
    {
        *("getenv", "current_setting", "current_query", "json_serialize_plan", "json_execute_serialized_sql"),
        *("read_text", "read_blob", "query", "query_table", "write_log", "nextval", "currval", "sleep_ms"),
    }
)
# Views of DuckDB's own that would show paths, connection strings or settings.
_SYSTEM_NAME = re.compile(r"(duckdb_|pragma_|pg_|sqlite_)")
_SYSTEM_VIEWS = frozenset({"duckdb_columns", "duckdb_constraints", "duckdb_schemas", "duckdb_tables", "duckdb_types"})
_SCHEMAS = frozenset({"", "main", "store", "information_schema"})
_EXPLAIN = re.compile(r"explain\s+(analyze\s+|\(\s*[\w\s,]*\)\s*)?", re.IGNORECASE)


def check_query(sql: str, *, catalogs: frozenset[str] = frozenset({NAME})) -> None:
    """Raises QueryError for anything but one SELECT (or EXPLAIN of one) over the lake. `catalogs` may be named."""
    explained = _EXPLAIN.match(sql := _without_comments(sql))
    sql = sql[explained.end() :] if explained else sql
    _check_kind(sql)
    for name in sorted(_forbidden(sql, catalogs)):
        raise QueryError(f"{name}: not available here, because it can read or change what is outside the lake")


def _check_kind(sql: str) -> None:
    try:
        statements = duckdb.extract_statements(sql)
    except SQL_ERRORS as error:
        raise QueryError(f"not valid SQL: {error}") from None
    kinds = [statement.type for statement in statements]
    if kinds == [duckdb.StatementType.CREATE, duckdb.StatementType.SELECT] and "pivot" in sql.lower():
        raise QueryError("PIVOT: name the values that become columns, such as PIVOT … ON token IN ('a', 'b') USING …")
    if len(kinds) != 1:
        raise QueryError(f"expected one statement, found {len(kinds)}: send them one by one")
    if kinds[0] != duckdb.StatementType.SELECT:
        raise QueryError(
            f"expected a SELECT, found {kinds[0].name}: this session only reads; use `logitlake` commands to change the"
            " lake"
        )


def _forbidden(sql: str, catalogs: frozenset[str]) -> set[str]:
    tree = parse_select(sql)
    refused = {f"function {name}" for name in functions(tree) & _FORBIDDEN_SCALARS}
    for node in nodes(tree):
        if node.get("type") == "TABLE_FUNCTION":
            name = (node.get("function") or {}).get("function_name", "")
            if name not in _TABLE_FUNCTIONS:
                refused.add(f"table function {name}")
        elif node.get("type") == "BASE_TABLE":
            refused |= _foreign(node, catalogs)
    return refused


def _foreign(table: dict[str, str], catalogs: frozenset[str]) -> set[str]:
    """What is wrong with a table: a file, a system view that shows too much, another catalog."""
    catalog, schema, name = (table.get(f"{part}_name", "") for part in ("catalog", "schema", "table"))
    if any(mark in name for mark in "./*:\\"):
        return {f"file {name}"}
    if _SYSTEM_NAME.match(name.lower()) and name.lower() not in _SYSTEM_VIEWS:
        return {f"system view {name}"}
    # `lake.sequences` names a catalog where a schema is expected.
    if (catalog and catalog not in catalogs) or (schema not in _SCHEMAS and (catalog or schema not in catalogs)):
        return {f"catalog or schema {'.'.join(part for part in (catalog, schema) if part)}"}
    return set()


def _without_comments(sql: str) -> str:
    """The statement from its first word on: DuckDB's tokens leave comments out."""
    try:
        tokens = duckdb.tokenize(sql)
    except SQL_ERRORS as error:
        raise QueryError(f"not valid SQL: {error}") from None
    return sql.encode()[tokens[0][0] :].decode() if tokens else sql
