import json
import re
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

EXPORTS = Path(__file__).resolve().parents[4] / "docs" / "exports.md"


def test_rows_are_exported_in_the_format_that_is_named(cli, config_file, captured, tmp_path):
    result = cli("export", tmp_path / "hub", "--as", "huggingface", "--config", config_file, "--format", "json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    rows = pq.read_table(tmp_path / "hub" / "data")
    assert rows.num_rows == record["n_sequences"]
    assert "target_probs" in rows.column_names


@pytest.mark.parametrize("kind", ["lake", "huggingface"])
def test_an_export_carries_the_text_of_its_ids_and_plain_duckdb_asks_it(
    cli, config_file, captured, tmp_path, monkeypatch, kind
):
    assert cli("export", tmp_path / "dataset", "--as", kind, "--config", config_file).exit_code == 0
    monkeypatch.chdir(tmp_path)
    (question,) = re.findall(r"```sql\n(.*?)```", EXPORTS.read_text(encoding="utf-8"), re.DOTALL)
    with duckdb.connect() as connection:
        answer = dict(connection.execute(question).fetchall())
        ids = connection.execute("SELECT unnest(input_ids) AS id FROM 'dataset/data/*.parquet'").fetchall()
        texts = dict(connection.execute("SELECT token_id, token FROM 'dataset/vocabulary.parquet'").fetchall())
    assert len(answer) == 10 and len(texts) > 50
    counted = {text: sum(texts[number] == text for (number,) in ids) for text in answer}
    assert answer == counted


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
