"""One description of every table: nothing in the lake is left out of it, and everything reads it."""

import re
import shutil
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pytest

from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.schema.tables import TABLES, Rebuild, Table
from logitlake.storage.sql.session import ReadSession
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.verification.verify import verify_tables

TOYS = Table(
    columns=pa.schema(
        [
            pa.field("doc_id", pa.string(), nullable=False),
            pa.field("commit_number", pa.int64(), nullable=False),
            pa.field("bought_at", pa.timestamp("us", "UTC")),
        ]
    ),
    key=("doc_id",),
    as_of="commit_number <= $n",
    of_documents=True,
    forget=True,
)
TABLES_OF_SQL = re.compile(r"\bstore\.(\w+)")
INTERNAL_VIEW = re.compile(r"CREATE OR REPLACE VIEW store\.(\w+)")


def _tables(lake: Lake) -> dict[str, list[str]]:
    rows = lake.sql(
        """
        SELECT table_name, column_name FROM duckdb_columns()
        WHERE (database_name, schema_name) = ('lake', 'store')
            AND table_name IN (SELECT table_name FROM duckdb_tables() WHERE schema_name = 'store')
        ORDER BY table_name, column_index
        """
    ).to_pylist()
    tables: dict[str, list[str]] = {}
    for row in rows:
        tables.setdefault(row["table_name"], []).append(row["column_name"])
    return tables


def test_the_catalog_has_the_described_tables_and_columns_and_no_others(lake):
    assert _tables(lake) == {name: table.stored.names for name, table in sorted(TABLES.items())}


def test_sql_names_no_table_that_is_not_described():
    package = Path(str(files("logitlake.storage")))
    sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*") if path.suffix in (".py", ".sql")}
    views = {name for text in sources.values() for name in INTERNAL_VIEW.findall(text)}
    named = {name for text in sources.values() for name in TABLES_OF_SQL.findall(text)}
    assert named - views <= set(TABLES)


def test_every_table_has_a_key_of_its_own_columns():
    for name, table in TABLES.items():
        assert table.key and set(table.key) <= set(table.columns.names), name
        assert not table.of_documents or "doc_id" in table.columns.names, name
        assert not table.forget or set(table.forgotten_by) <= set(table.columns.names), name
        assert not table.retire or "recipe_id" in table.columns.names, name


def test_every_table_of_the_full_lake_has_rows(full_lake):
    counts = {name: full_lake.row(f"SELECT count(*) AS n FROM store.{name}")["n"] for name in TABLES}
    assert all(counts.values()), counts


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES, "toys", TOYS)


def _toys(lake: Lake) -> list[tuple[str, int]]:
    rows = lake.sql("SELECT doc_id, commit_number FROM store.toys ORDER BY doc_id").to_pylist()
    return [(row["doc_id"], row["commit_number"]) for row in rows]


@pytest.mark.slow
def test_a_table_that_is_described_is_created_narrowed_verified_forgotten_and_rebuilt(
    toys, every_table, location, damage
):
    shutil.copytree(every_table, location.state_directory)
    first, second = sorted(document_id(name) for name in ("a", "c"))
    with Lake.open(location) as lake:
        assert _toys(lake) == [], "a reader of an older lake sees the table without rows"
    with Lake.open(location, read_only=False) as lake:
        for doc_id, number in ((first, 2), (second, 5)):
            row = {"doc_id": doc_id, "commit_number": number, "bought_at": datetime.now(UTC)}
            lake.change(lambda transaction, row=row: transaction.insert("toys", pa.Table.from_pylist([row])))
        assert _toys(lake) == [(first, 2), (second, 5)]
    with ReadSession(location, as_of=3) as session:
        assert session.ask("SELECT doc_id FROM store.toys")["doc_id"].to_pylist() == [first]

    file = next(path for path in location.data_directory.glob("store/toys/*.parquet"))
    damage(file, "commit_number")
    with Lake.open(location) as lake:
        (check,) = verify_tables(lake, ["toys"])
        assert "1 of 2 rows do not match their hash: doc_id=" in check.problem and str(file) in check.problem
    damage(file, "commit_number", by=-1)

    with Lake.open(location, read_only=False) as lake:
        forget(lake, [first], reason="asked")
        assert _toys(lake) == [(second, 5)]
    for part in location.state_directory.glob("catalog.sqlite*"):
        part.unlink()
    assert not [path for path in rebuild(location).skipped if "/toys/" in path]
    with Lake.open(location) as lake:
        assert _toys(lake) == [(second, 5)]
        assert [check.problem for check in verify_tables(lake, ["toys"])] == [""]


def test_the_held_out_documents_of_every_table_by_document_can_be_hidden(full_lake, location):
    by_document = [name for name, table in TABLES.items() if table.of_documents]
    full_lake.connection.execute("UPDATE store.lake_settings SET value = '1.0' WHERE name = 'held_out_share'")
    full_lake.close()
    with ReadSession(location, held_out=False) as session:
        for name in by_document:
            assert session.ask(f"SELECT count(*) AS n FROM store.{name}")["n"].to_pylist() == [0], name


def test_only_what_the_lake_is_made_with_is_not_rebuilt():
    assert {name for name, table in TABLES.items() if table.rebuild is Rebuild.WITH_LAKE} == {"guard", "lake_settings"}
