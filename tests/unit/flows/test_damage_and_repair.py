"""Damage: verify finds it, SQL says so, training refuses it, repair and the next capture mend it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitlake.flows.capture.preparation import prepare
from logitlake.flows.settings import location_of
from logitlake.pipeline.reading.open_rows import open_rows
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import IntegrityError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import resolve_row_set
from tests.tiny_lake import capture_all

pytestmark = pytest.mark.slow


def change_targets(config: Config) -> str:
    """Change one id among the targets of a document that is trained on, as a disk might; returns the document."""
    location = location_of(config)
    with Lake.open(location) as lake:
        place = lake.row(
            """
            SELECT p.filename, s.doc_id FROM sequences AS s
            JOIN (SELECT filename, doc_id FROM lake.store.sequences) AS p USING (doc_id) WHERE NOT s.held_out
            """
        )
    path = Path(place["filename"])
    with pq.ParquetFile(path) as file:
        rows = file.read()
    changed = rows.to_pylist()
    for row in changed:
        if row["doc_id"] == place["doc_id"]:
            first = next(ids for ids in row["target_ids"] if ids)
            first[0] = (first[0] + 1) % 50
    pq.write_table(pa.Table.from_pylist(changed, rows.schema), path)
    footer = int.from_bytes(path.read_bytes()[-8:-4], "little")
    with closing(sqlite3.connect(str(location.catalog_file), timeout=20)) as catalog, catalog:
        catalog.execute(
            "UPDATE ducklake_data_file SET file_size_bytes = ?, footer_size = ? WHERE path LIKE ?",
            [path.stat().st_size, footer, f"%{path.name}"],
        )
    return str(place["doc_id"])


def rows_of(config: Config) -> list[dict[str, Any]]:
    """Every row, without what names the commit that brought it."""
    with Lake.open(location_of(config)) as lake:
        rows = lake.sql(
            "SELECT * EXCLUDE (commit_number, unit_id, row_hash) FROM sequences ORDER BY doc_id, window_index"
        )
    return rows.to_pylist()


def content_hash(config: Config) -> str:
    """The hash of what a student would be trained on."""
    with Lake.open(location_of(config)) as lake:
        return resolve_row_set(lake, recipe_id=prepare(config).recipe.recipe_id).content_hash


def read_for_training(config: Config) -> int:
    """Read one epoch as a training does; returns the number of batches."""
    return sum(1 for _ in open_rows(config.lake.path).reader)


@pytest.mark.parametrize("torn", [False, True], ids=["a changed target", "a torn shard"])
def test_damage_is_found_named_refused_repaired_and_captured_again(config, config_file, captured, cli, torn):
    before, trained_on, n_batches = rows_of(config), content_hash(config), read_for_training(config)
    changed = change_targets(config)
    if torn:
        shard = min(location_of(config).data_directory.glob("store/sequences/**/*.parquet"))
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])

    checked = cli("verify", "--config", config_file)
    assert checked.exit_code == 7 and "logitlake repair" in checked.stderr
    asked = cli("sql", "--config", config_file, "SELECT DISTINCT doc_id FROM damage", "--format", "json")
    known = {row["doc_id"] for row in json.loads(asked.stdout)}
    assert changed in known and "known to be damaged" in asked.stderr
    assert f"{len(known)} documents" in cli("show", "--config", config_file).stdout
    if not torn:
        with pytest.raises(IntegrityError, match="logitlake repair"):
            read_for_training(config)

    foreseen = json.loads(cli("repair", "--config", config_file, "--dry-run", "--format", "json").stdout)
    assert {row["doc_id"] for row in foreseen["documents"]} == known
    repaired = cli("repair", "--config", config_file, "--format", "json")
    assert repaired.exit_code == 0, repaired.stderr
    assert {row["doc_id"] for row in json.loads(repaired.stdout)["documents"]} == known
    planned = json.loads(cli("plan", "--config", config_file, "--format", "json").stdout)
    assert planned["documents_new"] == len(known)

    capture_all(config)
    assert cli("verify", "--config", config_file).exit_code == 0
    assert "damaged" not in cli("sql", "--config", config_file, "FROM damage").stderr
    assert rows_of(config) == before
    assert content_hash(config) == trained_on
    assert read_for_training(config) == n_batches
