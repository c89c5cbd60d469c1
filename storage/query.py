"""One read-only question to the lake, for people and programs that should not be able to change it.

DuckDB's own settings do not make a session read-only (`COPY … TO` inside the data path and DuckLake's maintenance
functions stay possible), so the statement is parsed first: one SELECT, no function that reaches outside the lake.
"""

import duckdb
import pyarrow as pa

from storage.errors import QueryError
from storage.lake import Lake
from storage.location import LakeLocation
from storage.sql_tree import functions, nodes, parse_select

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
    if sql.lstrip().lower().startswith(("describe", "summarize", "show")):
        # A SELECT to DuckDB, but not one that it writes as a tree; what follows is judged as one.
        relation = sql.strip().rstrip(";").split(maxsplit=1)[1:]
        return (
            _forbidden(f"FROM ({relation[0]})" if " " in relation[0] else f"FROM {relation[0]}") if relation else set()
        )
    tree = parse_select(sql)
    found = {f"function {name}" for name in functions(tree) & _FORBIDDEN_SCALARS}
    for node in nodes(tree):
        if node.get("type") == "TABLE_FUNCTION":
            name = (node.get("function") or {}).get("function_name", "")
            if name not in _TABLE_FUNCTIONS:
                found.add(f"table function {name}")
        elif node.get("type") == "BASE_TABLE" and any(mark in node.get("table_name", "") for mark in "./*"):
            found.add(f"file {node['table_name']}")
    return found
