"""A shard is plain Parquet: what other programs make of it is what we wrote."""

import importlib

import pytest

from logitlake.storage.shards.writing import encode_shard


@pytest.fixture
def shard(make_rows, recipe, tmp_path):
    """A shard in a folder as the lake has it, and its rows."""
    rows = make_rows("a", "b", recipe=recipe)
    folder = tmp_path / "store" / "sequences" / f"recipe_id={rows['recipe_id'][0].as_py()}"
    folder.mkdir(parents=True)
    (folder / "unit.parquet").write_bytes(encode_shard(rows, recipe))
    return folder / "unit.parquet", rows


def test_polars_reads_a_shard(shard):
    polars = importlib.import_module("polars")
    path, rows = shard
    found = polars.read_parquet(path, hive_partitioning=False)
    assert found.select(rows.column_names).to_dicts() == rows.to_pylist()
    sums = found.select(polars.col("head_codes").list.eval(polars.element().list.sum()).list.sum()).to_series()
    assert sums.to_list() == [sum(map(sum, codes)) for codes in rows["head_codes"].to_pylist()]


def test_polars_scans_all_shards_by_recipe(shard):
    polars = importlib.import_module("polars")
    path, rows = shard
    lazy = polars.scan_parquet(path.parents[1] / "**" / "*.parquet", hive_partitioning=True)
    assert lazy.select(polars.col("n_targets").sum()).collect().item() == sum(rows["n_targets"].to_pylist())


def test_pandas_reads_a_shard(shard):
    pandas = importlib.import_module("pandas")
    path, rows = shard
    found = pandas.read_parquet(path, partitioning=None)
    assert list(found.columns) == rows.column_names
    assert found["doc_id"].tolist() == rows["doc_id"].to_pylist()
    assert [[list(ids) for ids in row] for row in found["target_ids"]] == rows["target_ids"].to_pylist()
    codes = [[None if code != code else int(code) for code in row] for row in found["entropy_codes"]]
    assert codes == rows["entropy_codes"].to_pylist()


def test_hugging_face_datasets_reads_a_shard(shard, tmp_path):
    datasets = importlib.import_module("datasets")
    path, rows = shard
    found = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert found.to_list() == rows.to_pylist()
