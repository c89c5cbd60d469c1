"""The views of a lake in a session's own memory: over a part of its rows, or over a lake of an older logitlake.

Each table is shadowed by a view of the same name with a condition, and with NULL for columns that the lake lacks; the
public views are made anew over these. So no view can show more than the part, however it is built.
"""

from collections.abc import Mapping

import duckdb

from logitlake.storage.lake.lake_settings import read_lake_settings
from logitlake.storage.lake.migration import table_columns
from logitlake.storage.lake.views import view_statements
from logitlake.storage.schema.tables import NAME, TABLES, sql_type

MEMORY = "memory"


def lay_views(connection: duckdb.DuckDBPyConnection, conditions: Mapping[str, str]) -> None:
    """Make the names of tables and views stand for rows that fulfil `conditions` (by table; without one: all rows)."""
    settings = read_lake_settings(connection)
    present = table_columns(connection)
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {MEMORY}.store")
    connection.execute(f"USE {MEMORY}")
    for name in TABLES:
        rows = _select(name, present.get(name), conditions.get(name, "true"))
        connection.execute(f"CREATE OR REPLACE VIEW store.{name} AS {rows}")
    for statement in view_statements(settings):
        connection.execute(statement)


def _select(name: str, present: set[str] | None, condition: str) -> str:
    absent = [field for field in TABLES[name].stored if field.name not in (present or ())]
    nulls = [f'NULL::{sql_type(field.type)} AS "{field.name}"' for field in absent]
    if present is None:
        return f"SELECT {', '.join(nulls)} WHERE false"
    return f"SELECT {', '.join(['*', *nulls])} FROM {NAME}.store.{name} WHERE {condition}"
