"""The public views and macros (views.sql, notes.sql), with the lake's held-out rule put in."""

from collections.abc import Mapping
from importlib.resources import files

import duckdb
import pyarrow as pa

from logitlake.storage.identity import canonical_json, digest, held_out_bound
from logitlake.storage.lake.row_hash import insert_rows
from logitlake.storage.target_facts import FACTS_OF_OLD_RECIPES

_FILES = ("views.sql", "notes.sql")
_FACTS_OF_OLD_RECIPES = canonical_json(FACTS_OF_OLD_RECIPES).decode()


def make_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Make every view and macro in the catalog, and record which version they are."""
    settings = dict(connection.execute("SELECT name, value FROM store.lake_settings").fetchall())
    connection.execute("BEGIN")
    for statement in view_statements(settings):
        connection.execute(statement)
    for statement in _comment_statements(connection):
        connection.execute(statement)
    connection.execute("DELETE FROM store.lake_settings WHERE name = 'views'")
    insert_rows(connection, "lake_settings", pa.table({"name": ["views"], "value": [_version()]}))
    connection.execute("COMMIT")


def views_are_current(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the catalog has the views of this logitlake."""
    versions = connection.execute("SELECT value FROM store.lake_settings WHERE name = 'views'").fetchall()
    return bool(versions) and versions[-1][0] == _version()


def view_statements(settings: Mapping[str, str]) -> list[str]:
    """CREATE OR REPLACE of every view and macro, in order; `settings` are those of the table `lake_settings`."""
    texts = [text for name in _FILES for text in statements(name)]
    return [
        text.replace("$held_out", held_out_rule(settings, "s.doc_id"))
        .replace("$rule_for_id", held_out_rule(settings, "id"))
        .replace("$facts_of_old_recipes", _quoted(_FACTS_OF_OLD_RECIPES))
        for text in texts
    ]


def _comment_statements(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """COMMENT ON VIEW for every view in `dictionary`."""
    notes = connection.execute("SELECT name, note FROM dictionary WHERE column_name IS NULL AND name NOT LIKE '%(%'")
    return [f"COMMENT ON VIEW {name} IS {_quoted(note)}" for name, note in notes.fetchall()]


def _version() -> str:
    """A hash of everything that the views are made from."""
    texts = [files("logitlake.storage.lake").joinpath(name).read_bytes() for name in _FILES]
    return digest(*texts, _FACTS_OF_OLD_RECIPES.encode())


def statements(name: str) -> list[str]:
    """The statements of a SQL file of this package."""
    connection = duckdb.connect()
    text = files("logitlake.storage.lake").joinpath(name).read_text(encoding="utf-8")
    return [statement.query for statement in connection.extract_statements(text)]


def held_out_rule(settings: Mapping[str, str], doc_id: str) -> str:
    """Whether a document is held out, as SQL over its id."""
    salt, bound = settings["held_out_salt"], held_out_bound(float(settings["held_out_share"]))
    return f"(('0x' || substr(sha256({_quoted(salt)} || ':' || {doc_id}), 1, 8))::BIGINT < {bound})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
