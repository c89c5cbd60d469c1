"""docs/format.md is enough to read a shard with DuckDB alone: its SQL is run here, as it stands, on a real shard."""

import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from logitlake.storage.identity import document_id, recipe_id
from logitlake.storage.schema.sequences import FORMAT_VERSION, SEQUENCES, with_checksums
from logitlake.storage.shards.writing import encode_shard

PAGE = Path("docs/format.md").read_text(encoding="utf-8")
RECIPE = {"teacher": {"name": "tiny"}, "temperature": 1.0}


@pytest.fixture
def shard(tmp_path, monkeypatch):
    """Two windows of one document with random targets, the second as a trace; returns the rows."""
    random = np.random.default_rng(0)
    rows = []
    for window in range(2):
        n_heads = random.integers(0, 3, size=9)
        codes = [random.integers(1, 30, size=n).tolist() for n in n_heads] + [[]]
        ids = [random.integers(0, 99, size=n + 2).tolist() for n in n_heads] + [[]]
        row = {"recipe_id": recipe_id(RECIPE), "doc_id": document_id("x"), "unit_id": "u", "corpus": "c", "source": "s"}
        row |= {"window_index": window, "start": 10 * window, "n_tokens": 10, "n_targets": 9, "levels": 64}
        row |= {"input_ids": random.integers(0, 99, size=10).tolist(), "target_ids": ids, "head_codes": codes}
        row |= {
            "entropy_codes": [*range(9), None],
            "nll_codes": [*range(9), None],
            "mean_entropy": 1.0,
            "mean_nll": 1.0,
        }
        if window:
            row |= {"nll_steps_per_nat": 1024, "writer": "student-1", "verdict": 1.0}
            row |= {"writer_nll_codes": [*range(0, 18, 2), None], "writer_nll_steps_per_nat": 256}
        rows.append(row)
    table = with_checksums(pa.Table.from_pylist([row | {"checksum": ""} for row in rows], SEQUENCES))
    (tmp_path / "shard.parquet").write_bytes(encode_shard(table, RECIPE))
    monkeypatch.chdir(tmp_path)
    return table.to_pylist()


def _sql() -> list[str]:
    return re.findall(r"```sql\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_footer_query_names_format_version_and_recipe(shard):
    found = dict(duckdb.sql(_sql()[0]).fetchall())
    assert found["logitlake.format_version"] == str(FORMAT_VERSION) and "tiny" in found["logitlake.recipe"]


def test_the_position_query_gives_each_real_token_and_its_statistics(shard):
    found = duckdb.sql(_sql()[1]).fetchall()
    expected = [
        (
            row["doc_id"],
            row["start"] + i + 1,
            row["input_ids"][i + 1],
            i / 32,
            -i / (row["nll_steps_per_nat"] or 32),
            1 - sum(row["head_codes"][i]) / 64,
        )
        for row in shard
        for i in range(9)
    ]
    assert found == expected


def test_the_probability_query_gives_every_head_and_tail_and_sums_to_one(shard):
    found = duckdb.sql(_sql()[2]).fetchall()
    expected = []
    for row in shard:
        for i in range(9):
            ids, codes = row["target_ids"][i], row["head_codes"][i]
            share = (1 - sum(codes) / 64) / (len(ids) - len(codes))
            probabilities = [code / 64 for code in codes] + [share] * (len(ids) - len(codes))
            expected += [(row["start"] + i + 1, a, p) for a, p in zip(ids, probabilities, strict=True)]
    assert sorted((position, id_, p) for _, position, id_, _, p in found) == sorted(expected)
    totals: dict[int, float] = {}
    for _, position, _, _, probability in found:
        totals[position] = totals.get(position, 0.0) + probability
    assert all(total == pytest.approx(1.0) for total in totals.values()) and len(totals) == 18


def test_the_page_names_every_column_and_the_format_version():
    assert f"Format version: **{FORMAT_VERSION}**" in PAGE
    assert [name for name in SEQUENCES.names if f"`{name}`" not in PAGE] == []


def test_the_page_names_every_view():
    views = Path("storage/lake/views.sql").read_text(encoding="utf-8")
    names = re.findall(r"CREATE OR REPLACE (?:VIEW|MACRO) (\w+)", views)
    assert [name for name in names if f"`{name}" not in PAGE] == []


def test_the_query_for_traces_gives_the_log_probability_of_the_writer(shard):
    found = duckdb.sql(_sql()[3]).fetchall()
    trace = next(row for row in shard if row["writer"])
    assert found == [
        (trace["doc_id"], trace["start"] + i + 1, "student-1", 1.0, -i / 1024, -2 * i / 256) for i in range(9)
    ]
