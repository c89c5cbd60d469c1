"""The statements that make the SQL face (views.sql, notes.sql), with a lake's rule for held-out documents put in."""

from collections.abc import Mapping
from importlib.resources import files

import duckdb

from logitlake.storage.identity import canonical_json, digest, held_out_bound
from logitlake.storage.target_facts import FACTS_OF_OLD_RECIPES

_FILES = ("views.sql", "notes.sql")
_FACTS_OF_OLD_RECIPES = canonical_json(FACTS_OF_OLD_RECIPES).decode()


def view_statements(settings: Mapping[str, str]) -> list[str]:
    """CREATE OR REPLACE of every view and macro, in order; `settings` are those of the table `lake_settings`."""
    texts = [text for name in _FILES for text in statements(name)]
    return [
        text.replace("$held_out", held_out_rule(settings, "s.doc_id"))
        .replace("$rule_for_id", held_out_rule(settings, "id"))
        .replace("$facts_of_old_recipes", _quoted(_FACTS_OF_OLD_RECIPES))
        for text in texts
    ]


def comment_statements(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """COMMENT ON VIEW for every view that the dictionary of the current schema explains."""
    notes = connection.execute("SELECT name, note FROM dictionary WHERE column_name IS NULL AND name NOT LIKE '%(%'")
    return [f"COMMENT ON VIEW {name} IS {_quoted(note)}" for name, note in notes.fetchall()]


def views_version() -> str:
    """Another one whenever the views are."""
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
