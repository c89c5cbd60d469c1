"""Filters and weights of training: one plain expression over a row of the view `sequences`."""

import re

import duckdb

from logitlake.storage.errors import QueryError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.sql_tree import (
    functions,
    has_subquery,
    has_window_function,
    parse_select,
    unstable_functions,
)


def check_expression(lake: Lake, name: str, expression: str) -> None:
    """Refuse what is not one plain expression: a row set must mean the same whenever it is read."""
    setting = f"training.{name} {expression!r}"
    try:
        tree = parse_select(f"SELECT ({expression})")
        kind = str(lake.connection.sql("SELECT * FROM sequences LIMIT 0").select(f"({expression}) AS value").types[0])
    except (duckdb.Error, QueryError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"{setting}: not an expression over the view `sequences`: {reason}") from None
    if has_subquery(tree):
        raise SettingsError(f"{setting}: a subquery may answer differently later, and a row set must not; name columns")
    if unstable := functions(tree) & unstable_functions():
        raise SettingsError(f"{setting}: {', '.join(sorted(unstable))} answers differently every time")
    if has_window_function(tree):
        raise SettingsError(f"{setting}: rows are read some units at a time, so a window over them means nothing")
    if name == "where" and kind != "BOOLEAN":
        raise SettingsError(f"{setting}: expected BOOLEAN, found {kind}")
    if name == "weight" and not re.match(r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL)", kind):
        raise SettingsError(f"{setting}: expected a number, found {kind}")
