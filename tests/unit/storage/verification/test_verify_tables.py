"""Small tables: whatever changes on disk is found, and named."""

from pathlib import Path

import pytest

from logitlake.storage.schema.tables import ROW_HASH, TABLES
from logitlake.storage.upkeep import hashing
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.upkeep.hashing import add_row_hashes, count_without_hash
from logitlake.storage.verification.verify import verify_tables

HASHED = [name for name, table in TABLES.items() if table.hashed]


def test_an_intact_lake_has_no_problem_and_no_row_without_a_hash(full_lake):
    checks = list(verify_tables(full_lake))
    assert [check.table for check in checks] == HASHED
    assert all(check.n_rows and not check.n_without_hash and not check.problem for check in checks)


@pytest.mark.parametrize("name", HASHED)
def test_a_value_that_changed_on_disk_is_found_in_every_column_of_every_table(full_lake, damage, name):
    files = full_lake.sql(f"FROM ducklake_list_files('lake', '{name}', schema => 'store')")
    file = Path(files["data_file"][0].as_py())
    intact = file.read_bytes()
    for column in TABLES[name].stored.names:
        damage(file, column)
        (check,) = verify_tables(full_lake, [name])
        assert "do not match their hash" in check.problem and f"in {file}" in check.problem, column
        file.write_bytes(intact)


def test_a_file_of_another_size_than_was_committed_is_named(full_lake, location):
    (file,) = location.data_directory.glob("store/promotions/*.parquet")
    file.write_bytes(file.read_bytes()[:-40])
    (check,) = verify_tables(full_lake, ["promotions"])
    assert f"{file} can't be read" in check.problem


def test_the_damaged_row_is_named_by_its_key(full_lake, location, damage):
    unit_id = full_lake.row("SELECT unit_id FROM store.commits WHERE commit_number = 4")["unit_id"]
    full_lake.connection.execute("UPDATE store.commits SET n_tokens = n_tokens + 1 WHERE commit_number = 4")
    (check,) = verify_tables(full_lake, ["commits"])
    assert "1 of 2 rows do not match their hash: commit_number=4, unit_id=" + unit_id in check.problem


def test_a_file_that_is_gone_is_a_problem_of_its_table(full_lake, location):
    for file in location.data_directory.glob("store/vocabulary/*.parquet"):
        file.unlink()
    problems = {check.table: check.problem for check in verify_tables(full_lake) if check.problem}
    assert list(problems) == ["vocabulary"] and f"{file} can't be read" in problems["vocabulary"]


def test_rows_that_are_deleted_while_their_hashes_are_computed_do_not_come_back(full_lake, monkeypatch):
    full_lake.connection.execute(f"UPDATE store.document_sources SET {ROW_HASH} = NULL")
    with_row_hash, doc_ids = hashing.with_row_hash, []

    def and_meanwhile_forget(name, rows):
        if name == "document_sources" and not doc_ids:
            doc_ids.append(rows["doc_id"][0].as_py())
            forget(full_lake, doc_ids, reason="asked")
        return with_row_hash(name, rows)

    monkeypatch.setattr(hashing, "with_row_hash", and_meanwhile_forget)
    add_row_hashes(full_lake)
    left = full_lake.sql("SELECT doc_id, row_hash FROM store.document_sources")
    assert doc_ids[0] not in left["doc_id"].to_pylist()
    assert left["row_hash"].null_count == 0


def test_rows_without_a_hash_are_counted_and_given_one(full_lake):
    full_lake.connection.execute(f"UPDATE store.documents SET {ROW_HASH} = NULL")
    (check,) = verify_tables(full_lake, ["documents"])
    assert (check.n_rows, check.n_without_hash, check.problem) == (3, 3, "")
    assert count_without_hash(full_lake) == {"documents": 3}
    assert add_row_hashes(full_lake) == 3
    (check,) = verify_tables(full_lake, ["documents"])
    assert (check.n_rows, check.n_without_hash, check.problem) == (3, 0, "")
    assert add_row_hashes(full_lake) == 0
