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


def test_a_push_that_can_not_succeed_is_refused_before_the_export(cli, config_file, captured, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = cli("export", tmp_path / "hub", "--push", "me/targets", "--config", config_file)
    assert result.exit_code == 2 and "unset HF_HUB_OFFLINE" in result.stderr
    assert not (tmp_path / "hub").exists()
    result = cli("export", tmp_path / "hub", "--public", "--config", config_file)
    assert result.exit_code == 2 and "expected --push" in result.stderr
