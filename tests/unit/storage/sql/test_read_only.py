"""A session that only reads: every question is answered, and nothing else is done."""

import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitlake.storage.errors import QueryError
from logitlake.storage.sql.read_only import check_query
from logitlake.storage.sql.session import ReadSession, query, write_parquet
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary

WRITES = [
    "DELETE FROM store.sequences",
    "INSERT INTO store.tombstones VALUES ('x', 'y', now())",
    "UPDATE store.guard SET commit_number = 0",
    "MERGE INTO store.guard USING store.guard AS g ON true WHEN MATCHED THEN DELETE",
    "CREATE TABLE x AS SELECT 1",
    "CREATE TEMP TABLE x AS SELECT 1",
    "CREATE MACRO f() AS TABLE SELECT * FROM read_text('/etc/passwd')",
    "CREATE OR REPLACE VIEW sequences AS SELECT 1",
    "DROP VIEW sequences",
    "ALTER TABLE store.guard ADD COLUMN x INTEGER",
    "TRUNCATE store.sequences",
    "COMMENT ON VIEW sequences IS 'x'",
    "WITH x AS (DELETE FROM store.sequences RETURNING *) SELECT * FROM x",
    "SELECT 1 INTO x",
    "COPY (SELECT 1) TO 'x.csv'",
    "COPY store.guard TO 'x.parquet'",
    "COPY store.guard FROM 'x.csv'",
    "EXPORT DATABASE 'x'",
    "IMPORT DATABASE 'x'",
    "COPY FROM DATABASE lake TO memory",
    "CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "BEGIN",
    "ROLLBACK",
]
SESSION = [
    "ATTACH 'x.sqlite' (TYPE sqlite)",
    "ATTACH 'ducklake:sqlite:catalog.sqlite' AS again",
    "DETACH lake",
    "USE memory",
    "SET threads = 1",
    "SET VARIABLE x = 1",
    "RESET memory_limit",
    "PRAGMA version",
    "PRAGMA enable_profiling",
    "INSTALL httpfs",
    "FORCE INSTALL httpfs FROM 'http://localhost:1'",
    "LOAD httpfs",
    "UPDATE EXTENSIONS",
    "CREATE SECRET (TYPE s3, KEY_ID 'x', SECRET 'y')",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "CALL ducklake_expire_snapshots('lake')",
    "CALL ducklake_cleanup_old_files('lake', cleanup_all => true)",
    "CALL pragma_version()",
]
READS_OUTSIDE = [
    "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM read_blob('/etc/hostname')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto(['/etc/passwd'])",
    "SELECT * FROM read_json('x.json')",
    "SELECT * FROM read_ndjson_objects('x.json')",
    "SELECT * FROM read_parquet('x.parquet')",
    "SELECT * FROM parquet_scan('x.parquet')",
    "SELECT * FROM parquet_metadata('x.parquet')",
    "SELECT * FROM parquet_kv_metadata('x.parquet')",
    "SELECT * FROM read_duckdb('x.duckdb')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM '/etc/hostname.csv'",
    "FROM 'x.parquet'",
    'FROM "x.parquet"',
    "TABLE 'x.csv'",
    "SELECT * FROM 'https://localhost:1/x.csv'",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "SELECT * FROM lake.main.'x.csv'",
    "DESCRIBE SELECT * FROM read_text('/etc/passwd')",
    "DESCRIBE 'x.csv'",
    "SUMMARIZE 'x.csv'",
    "SUMMARIZE SELECT * FROM read_csv('/etc/passwd')",
    "EXPLAIN SELECT * FROM read_csv('/etc/passwd')",
    "EXPLAIN ANALYZE SELECT * FROM read_text('/etc/passwd')",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
    "EXPLAIN ANALYZE DELETE FROM store.sequences",
    "EXPLAIN (ANALYZE, FORMAT json) COPY (SELECT 1) TO 'x.csv'",
    "EXPLAIN EXPLAIN SELECT 1",
    "SELECT (SELECT count(*) FROM read_text('/etc/passwd'))",
    "WITH x AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM x",
    "WITH RECURSIVE x AS (SELECT 1 AS a UNION ALL SELECT 1 FROM read_csv('/etc/passwd'), x) FROM x",
    "SELECT list_transform([1], lambda x: (SELECT count(*) FROM glob('/*')))",
    "SELECT * FROM sequences WHERE doc_id IN (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT 1 UNION ALL SELECT 2 FROM read_text('/etc/passwd')",
    "SELECT * FROM sequences, LATERAL (SELECT * FROM read_text('/etc/passwd'))",
    "FROM sequences SELECT (FROM glob('/*') LIMIT 1)",
    "SELECT 1 ORDER BY (SELECT count(*) FROM glob('/*'))",
    "SELECT count(*) OVER (ORDER BY (SELECT 1 FROM glob('/*')))",
    "SELECT sum(1) FILTER ((SELECT true FROM read_text('/etc/passwd')))",
    "SELECT 1 LIMIT (SELECT count(*) FROM glob('/*'))",
    "PIVOT (FROM read_csv('/etc/passwd')) ON a IN ('x') USING count(*)",
    "FROM (VALUES (1)) AS t(x) JOIN read_text('/etc/passwd') ON true",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT * FROM query_table('x.csv')",
    "SELECT * FROM histogram('x.csv', x)",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT json_serialize_plan('SELECT * FROM read_csv(''/etc/passwd'')')",
    "SELECT * FROM sqlite_scan('x.sqlite', 't')",
    "SELECT * FROM sqlite_query('lake', 'SELECT 1')",
    "SELECT * FROM postgres_query('lake', 'SELECT 1')",
    "SELECT * FROM postgres_scan('host=localhost', 'public', 't')",
    "SELECT * FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
    "SELECT * FROM ducklake_delete_orphaned_files('lake', cleanup_all => true)",
    "SELECT * FROM ducklake_expire_snapshots('lake', older_than => now())",
    "SELECT * FROM ducklake_merge_adjacent_files('lake')",
    "SELECT * FROM ducklake_add_data_files('lake', 'sequences', 'x.parquet')",
    "SELECT * FROM ducklake_set_option('lake', 'x', 'y')",
    "SELECT * FROM ducklake_list_files('lake', 'sequences')",
    "SELECT * FROM arrow_scan(0, 0, 0)",
    "SELECT * FROM checkpoint('lake')",
    "SELECT * FROM force_checkpoint()",
    "SELECT * FROM truncate_duckdb_logs()",
    "SELECT * FROM enable_logging()",
    "SELECT * FROM pragma_version()",
    "SELECT getenv('HOME')",
    "SELECT system.main.getenv('HOME')",
    "SELECT write_log('x')",
    "SELECT nextval('s')",
    "SELECT sleep_ms(1000)",
    "SELECT current_setting('memory_limit')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_databases()",
    "SELECT * FROM duckdb_databases",
    "SELECT * FROM DuckDB_Logs",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM pg_catalog.pg_settings",
    "SELECT * FROM pg_settings",
    "SELECT * FROM __ducklake_metadata_lake.ducklake_data_file",
    "SELECT * FROM __ducklake_metadata_lake.main.ducklake_data_file",
    "SELECT * FROM system.main.duckdb_databases",
]
NOT_ONE = ["SELECT 1; SELECT 2", "SELECT 1; DROP VIEW sequences", "SELEKT 1", "", "-- nothing", ";", "EXPLAIN"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory, empty_lake):
    import shutil

    from logitlake.storage.connection.location import LakeLocation
    from logitlake.storage.lake.lake import Lake

    location = LakeLocation.resolve(tmp_path_factory.mktemp("filled") / "lake")
    shutil.copytree(empty_lake, location.state_directory)
    recipe = {"teacher": {"name": "tiny"}, "tokenizer": "words", "sparsifier": {"name": "varopt"}, "temperature": 1.0}
    with Lake.open(location, read_only=False) as lake:
        register_recipe(lake, recipe)
        register_vocabulary(lake, "words", [f"t{number}" for number in range(12)], {0})
        rows = pa.Table.from_pylist([_row(recipe)])
        commit_unit(lake, rows, recipe=recipe, run_id="run", seconds=1.0)
    return location


def _row(recipe):
    from logitlake.storage.identity import document_id, recipe_id
    from logitlake.storage.schema.sequences import SEQUENCES

    row = {"recipe_id": recipe_id(recipe), "doc_id": document_id("a"), "unit_id": "", "corpus": "c", "source": "s"}
    row |= {"window_index": 0, "start": 0, "n_tokens": 3, "n_targets": 2, "levels": 64, "input_ids": [5, 6, 7]}
    row |= {"target_ids": [[6, 9], [7, 3], []], "head_codes": [[32], [48], []], "entropy_codes": [32, 64, None]}
    row |= {"nll_codes": [16, 8, None], "mean_entropy": 1.5, "mean_nll": 0.4, "checksum": ""}
    return pa.Table.from_pylist([row], SEQUENCES).to_pylist()[0]


@pytest.mark.parametrize("sql", [*WRITES, *SESSION, *READS_OUTSIDE, *NOT_ONE])
def test_a_hostile_statement_is_refused_before_it_is_run(sql):
    with pytest.raises(QueryError):
        check_query(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{data}x.parquet'",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('/*')",
        "ATTACH '{data}x.duckdb' AS other",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT * FROM read_csv('https://localhost:1/x.csv')",
    ],
)
def test_what_would_get_past_the_judgement_meets_a_session_that_can_not_do_it(filled, sql):
    """The second wall, without the first. What DuckDB's settings let pass (COPY inside the data path) is named here."""
    with ReadSession(filled) as session:
        connection = session._lake.connection
        sql = sql.format(data=filled.data)
        if sql.startswith(("COPY", "ATTACH")):
            check = pytest.raises(QueryError)
            with check:
                session.ask(sql)
            return
        with pytest.raises(duckdb.Error):
            connection.execute(sql).fetchall()


def test_the_lake_is_the_same_after_all_of_it(filled):
    before = sorted(path for path in Path(filled.data).rglob("*") if path.is_file())
    with ReadSession(filled) as session:
        for sql in [*WRITES, *SESSION, *READS_OUTSIDE, *NOT_ONE]:
            with pytest.raises(QueryError):
                session.ask(sql)
        assert session.ask("SELECT count(*) AS n FROM sequences").to_pylist() == [{"n": 1}]
    assert sorted(path for path in Path(filled.data).rglob("*") if path.is_file()) == before


QUESTIONS = [
    "SELECT count(*) FROM sequences",
    "FROM recipes",
    "FROM lake.sequences",
    "FROM lake.main.sequences",
    "FROM store.documents",
    "TABLE recipes",
    "VALUES (1), (2)",
    "WITH x AS (SELECT * FROM targets) SELECT * FROM x",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) FROM r",
    "DESCRIBE sequences",
    "DESCRIBE SELECT 1",
    "SUMMARIZE documents",
    "SHOW TABLES",
    "-- what is\nSELECT 1 /* really */;",
    "SELECT list_transform(target_ids, lambda x: len(x)) FROM sequences",
    "SELECT unnest(range(3))",
    "SELECT text_of(input_ids, tokenizer_id) FROM sequences JOIN recipes USING (recipe_id)",
    "SELECT * FROM range(3), generate_series(1, 2)",
    "PIVOT positions ON token IN ('t6', 't7') USING count(*)",
    "FROM positions PIVOT (avg(entropy) FOR token IN ('t6', 't7'))",
    "UNPIVOT (SELECT n_tokens, n_targets FROM sequences) ON n_tokens, n_targets",
    "EXPLAIN SELECT count(*) FROM targets",
    "EXPLAIN ANALYZE SELECT count(*) FROM targets",
    "EXPLAIN (FORMAT json) SELECT count(*) FROM targets",
    "-- why\nEXPLAIN SELECT 1",
    "SELECT recipe ->> '$.temperature' FROM recipes",
    "SELECT * FROM json_each('{\"a\": 1}')",
    "SELECT table_name FROM information_schema.tables",
    "SELECT * FROM duckdb_views() WHERE comment IS NOT NULL",
    "SELECT quantile_cont(entropy, [0.1, 0.5]) FROM positions",
    "SELECT * FROM positions USING SAMPLE 50%",
    "SELECT doc_id, row_number() OVER (PARTITION BY recipe_id ORDER BY n_tokens) FROM documents",
]


def test_any_select_is_answered(filled):
    with ReadSession(filled) as session:
        for sql in QUESTIONS:
            assert session.ask(sql).num_columns > 0, sql


def test_a_pivot_over_unknown_values_says_how_to_write_it(filled):
    with pytest.raises(QueryError, match="ON token IN"):
        query(filled, "PIVOT positions ON token USING count(*)")


def test_objects_of_the_program_are_no_tables(filled):
    secret = pa.table({"x": [1]})
    with pytest.raises(QueryError, match="secret"):
        query(filled, "SELECT * FROM secret")
    assert secret.num_rows == 1


def test_a_query_that_takes_too_long_is_stopped_and_the_session_goes_on(filled):
    with ReadSession(filled) as session:
        with pytest.raises(QueryError, match=r"--timeout"):
            session.ask("SELECT count(*) FROM range(100000000000000)", timeout=0.2)
        assert session.ask("SELECT 1 AS one", timeout=60).to_pylist() == [{"one": 1}]


def test_an_interrupt_stops_the_query_and_not_the_session(filled):
    with ReadSession(filled) as session:
        waiting = threading.Timer(0.2, session._lake.connection.interrupt)
        waiting.start()
        with pytest.raises(QueryError):
            session.ask("SELECT count(*) FROM range(100000000000000)")
        waiting.join()
        assert session.ask("SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_a_query_that_needs_more_memory_than_it_may_have_fails(filled):
    with ReadSession(filled, memory_limit="20MB") as session, pytest.raises(QueryError, match=r"(?i)memory"):
        session.ask("SELECT list(range ORDER BY hash(range)) FROM range(20000000)")
    with pytest.raises(QueryError, match="memory limit 'much'"):
        ReadSession(filled, memory_limit="much")


def test_a_result_is_written_to_parquet_whole_or_not_at_all(filled, tmp_path):
    with ReadSession(filled) as session:
        assert write_parquet(session, "FROM range(300000)", tmp_path / "r.parquet") == 300_000
        assert pq.read_table(tmp_path / "r.parquet").num_rows == 300_000
        with pytest.raises(QueryError):
            write_parquet(session, "SELECT error('half way') FROM range(3)", tmp_path / "none.parquet")
        with pytest.raises(QueryError, match="can't be written"):
            write_parquet(session, "SELECT 1", tmp_path / "nowhere" / "r.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["r.parquet"]
