"""A shard explains itself to any Parquet reader, and a row's checksum sees every change of what it says."""

import io
import json

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitlake.storage.errors import IntegrityError
from logitlake.storage.schema.sequences import (
    FORMAT_VERSION,
    SEQUENCES,
    differing_targets,
    row_hashes,
    sequence_checksums,
    targets_hashes,
    with_checksums,
    with_hashes,
)
from logitlake.storage.shards.writing import check_rows, encode_shard


def test_the_footer_names_the_format_version_and_the_recipe(make_rows, recipe):
    footer = pq.ParquetFile(io.BytesIO(encode_shard(with_checksums(make_rows("a")), recipe))).metadata.metadata
    assert footer[b"logitlake.format_version"] == str(FORMAT_VERSION).encode()
    assert json.loads(footer[b"logitlake.recipe"]) == recipe


def test_a_shard_reads_back_as_it_was_by_pyarrow_and_by_duckdb_alone(make_rows, recipe, tmp_path):
    rows = with_checksums(make_rows("a", "b"))
    path = tmp_path / "shard.parquet"
    path.write_bytes(encode_shard(rows, recipe))
    assert pq.read_table(path).cast(SEQUENCES).to_pylist() == rows.to_pylist()
    columns = ", ".join(f'"{name}"' for name in SEQUENCES.names)
    assert (
        duckdb.sql(f"SELECT {columns} FROM '{path}'").to_arrow_table().cast(SEQUENCES).to_pylist() == rows.to_pylist()
    )


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("input_ids", [5, 6, 8]),
        ("target_ids", [[6, 9], [11, 7, 3, 3], []]),
        ("target_ids", [[6, 9, 11], [], [7, 3, 3]]),
        ("head_codes", [[32, 17], [48], []]),
        ("entropy_codes", [32, None, 64]),
        ("nll_codes", [16, 8, 0]),
        ("window_index", 4),
        ("levels", 32),
        ("doc_id", "0" * 32),
    ],
)
def test_a_checksum_sees_every_change_of_what_a_row_says(make_rows, column, value):
    rows = make_rows("a")
    changed = rows.to_pylist()
    changed[0][column] = value
    before, after = (sequence_checksums(table) for table in (rows, pa.Table.from_pylist(changed, SEQUENCES)))
    assert before[0] != after[0] and before[1] == after[1]


def test_a_checksum_does_not_depend_on_where_the_row_lies(make_rows):
    rows = with_checksums(make_rows("a", "b", "c"))
    shuffled = pa.concat_tables([rows.slice(3, 3), rows.slice(0, 3)])
    assert sequence_checksums(shuffled).to_pylist() == shuffled["checksum"].to_pylist()
    moved = rows.set_column(rows.schema.get_field_index("unit_id"), "unit_id", pa.array(["other"] * rows.num_rows))
    assert sequence_checksums(moved).to_pylist() == rows["checksum"].to_pylist()


def test_null_and_empty_are_different_to_a_checksum(make_rows):
    rows = make_rows("a").to_pylist()
    rows[0]["entropy_codes"], rows[1]["entropy_codes"] = [None, None, None], []
    rows[1] = {**rows[0], "entropy_codes": []}
    first, second = sequence_checksums(pa.Table.from_pylist(rows, SEQUENCES)).to_pylist()
    assert first != second


def test_rows_that_do_not_match_their_checksums_are_named(make_rows):
    rows = with_checksums(make_rows("a", "b")).to_pylist()
    rows[2]["input_ids"] = [1, 2, 3]
    with pytest.raises(IntegrityError, match=f"1 of 4 rows .* {rows[2]['doc_id']} window 0"):
        check_rows(pa.Table.from_pylist(rows, SEQUENCES), "here")


OTHER = {
    "n_tokens": 4,
    "n_targets": 1,
    "levels": 32,
    "input_ids": [5, 6, 8],
    "target_ids": [[6, 9], [11, 7, 3, 3], []],
    "head_codes": [[32], [16, 48], []],
}


@pytest.mark.parametrize("column", OTHER)
def test_the_targets_hash_sees_every_column_that_a_reader_decodes(make_rows, column):
    rows = make_rows("a")
    changed = rows.to_pylist()
    changed[0][column] = OTHER[column]
    before, after = (targets_hashes(table) for table in (rows, pa.Table.from_pylist(changed, SEQUENCES)))
    assert before[0] != after[0] and before[1] == after[1]
    stored = (
        pa.Table.from_pylist(changed, SEQUENCES).drop_columns(["targets_hash"]).append_column("targets_hash", before)
    )
    assert differing_targets(stored).to_pylist() == [True, False]
    assert differing_targets(rows).to_pylist() == [False, False]


def test_hashes_do_not_depend_on_how_rows_lie_in_memory_or_in_a_file(make_rows, recipe, tmp_path):
    rows = with_checksums(make_rows("a", "b", "c"))
    without_null = rows.to_pylist()
    without_null[1]["entropy_codes"] = [1, 2, 3]
    path = tmp_path / "shard.parquet"
    path.write_bytes(encode_shard(rows, recipe))
    # The first row beside others, alone, in a slice, in chunks, read by pyarrow and by DuckDB.
    tables = {
        "beside a row without null": pa.Table.from_pylist(without_null, SEQUENCES),
        "alone": rows.slice(0, 1),
        "chunks": pa.concat_tables([rows.slice(0, 2), rows.slice(2)]),
        "pyarrow": pq.read_table(path),
        "duckdb": duckdb.sql(f"FROM '{path}'").to_arrow_table(),
        "after others": pa.concat_tables([rows.slice(3), rows.slice(0, 3)]).combine_chunks().slice(3),
    }
    for name, table in tables.items():
        assert targets_hashes(table)[0] == rows["targets_hash"][0], name
        assert row_hashes(table)[0] == rows["row_hash"][0], name
    table = tables["beside a row without null"]
    assert row_hashes(table.slice(1, 1))[0] == row_hashes(table)[1]


def test_a_checksum_stays_when_the_hashes_of_a_row_are_made_anew(make_rows):
    rows = with_checksums(make_rows("a", "b"))
    moved = rows.set_column(rows.schema.get_field_index("unit_id"), "unit_id", pa.array(["other"] * rows.num_rows))
    anew = with_hashes(moved)
    assert anew["checksum"].to_pylist() == rows["checksum"].to_pylist()
    assert anew["targets_hash"].to_pylist() == rows["targets_hash"].to_pylist()
    assert all(a != b for a, b in zip(anew["row_hash"].to_pylist(), rows["row_hash"].to_pylist(), strict=True))
    with pytest.raises(IntegrityError, match="4 of 4 rows"):
        check_rows(moved, "here")
    check_rows(anew, "here")


def test_rows_of_format_1_are_checked_by_their_checksums(make_rows):
    rows = with_checksums(make_rows("a", "b")).to_pylist()
    old = [{**row, "row_hash": None, "targets_hash": None} for row in rows]
    check_rows(pa.Table.from_pylist(old, SEQUENCES), "here")
    old[3]["nll_codes"] = [1, 1, None]
    with pytest.raises(IntegrityError, match=f"1 of 4 rows .* {old[3]['doc_id']} window 1"):
        check_rows(pa.Table.from_pylist(old, SEQUENCES), "here")
