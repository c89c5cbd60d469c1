import json

import pyarrow.parquet as pq


def test_rows_are_exported_in_the_format_that_is_named(cli, config_file, captured, tmp_path):
    result = cli("export", tmp_path / "hub", "--as", "huggingface", "--config", config_file, "--format", "json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    rows = pq.read_table(tmp_path / "hub" / "data")
    assert rows.num_rows == record["n_sequences"]
    assert "target_probs" in rows.column_names


def test_an_unknown_format_is_refused_with_the_names_there_are(cli, config_file, captured, tmp_path):
    result = cli("export", tmp_path / "hub", "--as", "csv", "--config", config_file)
    assert result.exit_code == 2
    assert "--as 'csv': expected one of lake, huggingface" in result.stderr
    assert not (tmp_path / "hub").exists()
