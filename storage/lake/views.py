"""The public views and macros (views.sql, notes.sql), with the lake's held-out rule put in."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import duckdb
import pyarrow as pa

from logitlake.storage.connection.catalog_changes import catalog_transaction
from logitlake.storage.identity import ID_LENGTH, canonical_json, digest, held_out_bound
from logitlake.storage.lake.lake_settings import read_lake_settings
from logitlake.storage.schema.row_hash import insert_rows
from logitlake.storage.schema.tables import NAME
from logitlake.storage.target_facts import FACTS_OF_OLD_RECIPES

_INTERNAL_VIEW = re.compile(r"CREATE OR REPLACE VIEW store\.(\w+)")
_PUBLIC = re.compile(r"CREATE OR REPLACE (?:VIEW|MACRO) (\w+)(?![.\w])")
_FILES = ("views.sql", "notes.sql")
_FACTS_OF_OLD_RECIPES = canonical_json(FACTS_OF_OLD_RECIPES).decode()


def make_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Make every view and macro in the catalog, drop those of an older logitlake, and record which version they are."""
    settings = read_lake_settings(connection)
    with catalog_transaction(connection):
        for statement in view_statements(settings):
            connection.execute(statement)
        for name in _obsolete_views(connection):
            connection.execute(f'DROP VIEW store."{name}"')
        for statement in _comment_statements(connection):
            connection.execute(statement)
        connection.execute("DELETE FROM store.lake_settings WHERE name = 'views'")
        insert_rows(connection, "lake_settings", pa.table({"name": ["views"], "value": [_state(connection)]}))


def views_are_current(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the catalog has the views of this logitlake, in the very text that it wrote: no damaged one is used."""
    versions = connection.execute("SELECT value FROM store.lake_settings WHERE name = 'views'").fetchall()
    return bool(versions) and versions[-1][0] == _state(connection) and not _obsolete_views(connection)


def view_statements(settings: Mapping[str, str]) -> list[str]:
    """CREATE OR REPLACE of every view and macro, in order; `settings` are those of the table `lake_settings`."""
    texts = [text for name in _FILES for text in statements(name)]
    return [
        text.replace("$held_out", held_out_rule(settings, "s.doc_id"))
        .replace("$rule_for_id", held_out_rule(settings, "id"))
        .replace("$facts_of_old_recipes", _quoted(_FACTS_OF_OLD_RECIPES))
        for text in texts
    ]


def _obsolete_views(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Views of the schema `store` that an older logitlake made. The schema `main` may hold views that people made."""
    rows = connection.execute(
        "SELECT view_name FROM duckdb_views() WHERE (database_name, schema_name) = (?, 'store') ORDER BY view_name",
        [NAME],
    ).fetchall()
    return sorted({name for (name,) in rows} - _internal_views())


@cache
def _internal_views() -> set[str]:
    """The views that views.sql makes in the schema `store`."""
    return {name for text in statements("views.sql") for name in _INTERNAL_VIEW.findall(text)}


@cache
def _public_names() -> set[str]:
    """The views and macros of the schema `main` that the files make. People may make others there."""
    return {name for file in _FILES for text in statements(file) for name in _PUBLIC.findall(text)}


def _comment_statements(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """COMMENT ON VIEW for every view in `dictionary`."""
    notes = connection.execute("SELECT name, note FROM dictionary WHERE column_name IS NULL AND name NOT LIKE '%(%'")
    return [f"COMMENT ON VIEW {name} IS {_quoted(note)}" for name, note in notes.fetchall()]


def _state(connection: duckdb.DuckDBPyConnection) -> str:
    """A hash of everything that the views are made from, and of their text in the catalog.

    Another version of DuckDB may write the text in another way: then they are made anew, once.
    """
    sources = [files("logitlake.storage.lake").joinpath(name).read_bytes() for name in _FILES]
    stored = connection.execute(
        """
        SELECT schema_name, view_name, sql, comment FROM duckdb_views() WHERE database_name = $catalog
        UNION ALL
        SELECT schema_name, function_name, macro_definition, parameters::VARCHAR
        FROM duckdb_functions() WHERE database_name = $catalog
        ORDER BY ALL
        """,
        {"catalog": NAME},
    ).fetchall()
    ours = [row for row in stored if row[0] == "store" or row[1] in _public_names()]
    return digest(*sources, _FACTS_OF_OLD_RECIPES.encode(), duckdb.__version__.encode(), canonical_json(ours))


def statements(name: str) -> list[str]:
    """The statements of a SQL file of this package."""
    connection = duckdb.connect()
    text = files("logitlake.storage.lake").joinpath(name).read_text(encoding="utf-8")
    return [statement.query for statement in connection.extract_statements(text)]


def held_out_rule(settings: Mapping[str, str], doc_id: str) -> str:
    """Whether a document is held out, as SQL over its id; a trace's id begins with that of its prompt."""
    prompt = f"substr({doc_id}, 1, {ID_LENGTH})"
    salt, bound = settings["held_out_salt"], held_out_bound(float(settings["held_out_share"]))
    return f"(('0x' || substr(sha256({_quoted(salt)} || ':' || {prompt}), 1, 8))::BIGINT < {bound})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
