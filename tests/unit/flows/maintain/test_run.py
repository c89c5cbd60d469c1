"""Upkeep without Prefect: what it does, what it must not do, and that it may run while others work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.maintain.run import MaintainRun
from logitlake.flows.reports import CaptureReport, MaintainReport
from logitlake.flows.settings import location_of
from logitlake.pipeline.reading.blocks import lake_fetch
from logitlake.pipeline.reading.local_copy import LocalCopy
from logitlake.pipeline.reading.reader import RowSetReader
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import IntegrityError, LakeBusyError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import fetch, resolve_row_set
from logitlake.storage.upkeep.forgetting import forget


@pytest.fixture
def config(config: Config) -> Config:
    maintenance = config.maintenance.model_copy(update={"verify_sample": 1.0})
    return config.model_copy(update={"maintenance": maintenance})


def maintained(config: Config, **options: Any) -> MaintainReport:
    with MaintainRun(config, **options) as run:
        run.verify()
        run.merge()
        run.sweep()
    return run.report


def files(config: Config) -> set[Path]:
    return {path for path in (config.lake.path / "data").rglob("*") if path.is_file()}


def ask(config: Config, query: str) -> list[dict[str, Any]]:
    with Lake.open(location_of(config)) as lake:
        return lake.sql(query).to_pylist()


def held_on_disk(config: Config, doc_id: str) -> int:
    """Rows of a document in any Parquet file under the data path that has a column for it, but for tombstones."""
    found = 0
    for path in sorted((config.lake.path / "data").rglob("*.parquet")):
        if "tombstones" in path.parts or path.name.endswith("-delete.parquet"):
            continue
        with duckdb.connect() as connection:
            columns = [row[0] for row in connection.execute("DESCRIBE FROM read_parquet(?)", [str(path)]).fetchall()]
            if "doc_id" in columns:
                counted = connection.execute(
                    "SELECT count(*) FROM read_parquet(?) WHERE doc_id = ?", [str(path), doc_id]
                ).fetchone()
                found += counted[0] if counted else 0
    return found


def test_many_shards_become_one_and_a_row_set_is_the_same(config: Config, captured: CaptureReport) -> None:
    with Lake.open(location_of(config)) as lake:
        before = resolve_row_set(lake, recipe_id=captured.recipe_id)
    report = maintained(config)
    assert report.shards_before == captured.n_units > 1
    assert (report.shards_after, report.merges, report.files_merged) == (1, 1, captured.n_units)
    assert report.small_files_after < report.small_files_before
    assert report.bytes_after <= report.bytes_before, "compressed at least as well"
    assert report.units_verified == captured.n_units
    with Lake.open(location_of(config)) as lake:
        assert resolve_row_set(lake, recipe_id=captured.recipe_id).row_set_id == before.row_set_id
    again = maintained(config)
    assert (again.merges, again.shards_after) == (0, 1)


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(config: Config, captured: CaptureReport) -> None:
    before = files(config)
    rows = ask(config, "SELECT count(*) AS n FROM runs")
    report = maintained(config, dry_run=True)
    assert report.files_merged == captured.n_units
    assert files(config) == before and ask(config, "SELECT count(*) AS n FROM runs") == rows


def test_files_that_were_merged_stay_for_running_readers_and_leave_after_the_grace(
    config: Config, captured: CaptureReport
) -> None:
    shards = {path for path in files(config) if "sequences" in path.parts}
    maintained(config)
    assert shards < files(config)
    at_once = config.model_copy(update={"maintenance": config.maintenance.model_copy(update={"grace_hours": 0})})
    assert maintained(at_once).expired_files >= len(shards)
    assert not shards & files(config)


@pytest.mark.slow
def test_forgotten_rows_leave_the_disk_in_one_upkeep_whatever_the_grace(
    config: Config, captured: CaptureReport
) -> None:
    doc_id = ask(config, "SELECT doc_id FROM documents ORDER BY doc_id LIMIT 1")[0]["doc_id"]
    assert held_on_disk(config, doc_id) == 3
    with Lake.open(location_of(config), read_only=False) as lake:
        forget(lake, [doc_id], reason="asked")
    report = maintained(config)
    assert report.forgotten_rows_removed
    assert held_on_disk(config, doc_id) == 0
    assert not maintained(config).forgotten_rows_removed, "done once"


def test_a_forgotten_document_is_not_captured_again(
    config: Config, captured: CaptureReport, run_capture: Callable[[Config], CaptureReport]
) -> None:
    with Lake.open(location_of(config), read_only=False) as lake:
        doc_id = lake.row("SELECT doc_id FROM documents")["doc_id"]
        forget(lake, [doc_id], reason="asked")
    maintained(config)
    assert run_capture(config).n_documents == 0


def test_what_a_restored_catalog_brought_back_is_forgotten_again(config: Config, captured: CaptureReport) -> None:
    with Lake.open(location_of(config), read_only=False) as lake:
        doc_id = lake.row("SELECT doc_id FROM documents")["doc_id"]
        forget(lake, [doc_id], reason="asked")
        # An older catalog knows no tombstone and still has the rows.
        lake.connection.execute("DELETE FROM store.tombstones")
    assert maintained(config).forgotten_again == 1
    assert ask(config, "SELECT doc_id FROM forgotten") == [{"doc_id": doc_id}]


def test_with_damage_nothing_is_merged_or_removed(config: Config, captured: CaptureReport) -> None:
    before = files(config)
    with Lake.open(location_of(config), read_only=False) as lake:
        lake.connection.execute("UPDATE store.sequences SET input_ids = list_reverse(input_ids)")
    files_then = files(config)
    with pytest.raises(IntegrityError, match="Nothing was merged or removed"):
        maintained(config)
    assert before <= files_then <= files(config)
    assert ask(config, "SELECT status FROM runs WHERE kind = 'maintain'") == [{"status": "failed"}]


def test_another_day_verifies_another_sample(captured: CaptureReport, config: Config) -> None:
    from logitlake.storage.verification.verify import verify

    with Lake.open(location_of(config)) as lake:
        samples = [{check.unit_id for check in verify(lake, sample=0.5, salt=f"day {day}")} for day in range(20)]
        assert set().union(*samples) == {check.unit_id for check in verify(lake)}
        assert len({frozenset(sample) for sample in samples}) > 1
        assert samples[3] == {check.unit_id for check in verify(lake, sample=0.5, salt="day 3")}


@pytest.mark.slow
def test_it_may_run_while_a_capture_and_a_reader_do(config: Config) -> None:
    """A unit computed before upkeep and committed after it is there; a reader that was open goes on."""
    config = config.model_copy(update={"capture": config.capture.model_copy(update={"unit_tokens": 100})})
    with CaptureRun(config) as run:
        numbers = run.units()
        run.commit(run.compute(next(numbers)))
        run.commit(run.compute(next(numbers)))
        run.compute(next(numbers))
        with Lake.open(location_of(config)) as reader:
            rows = resolve_row_set(reader, recipe_id=run.report.recipe_id)
            report = maintained(config)
            assert report.merges == 1 and report.orphaned_files == 0
            units = rows.units["unit_id"].to_pylist()
            assert fetch(reader, rows, units, ["doc_id"]).num_rows == rows.n_sequences
        run.commit(2)
        for number in numbers:
            run.commit(run.compute(number))
    assert ask(config, "SELECT count(DISTINCT doc_id) AS n FROM sequences") == [{"n": 30}]


def test_two_at_once_are_refused_by_name(config: Config, captured: CaptureReport) -> None:
    with MaintainRun(config), pytest.raises(LakeBusyError, match="another maintain is running"), MaintainRun(config):
        pass


def test_a_forgotten_document_leaves_the_local_copy_of_the_settings(
    config: Config, captured: CaptureReport, tmp_path: Path
) -> None:
    training = config.training.model_copy(update={"local_copy": tmp_path / "copy"})
    config = config.model_copy(update={"training": training})
    with Lake.open(location_of(config), read_only=False) as lake:
        row_set = resolve_row_set(lake, recipe_id=captured.recipe_id)
        copy = LocalCopy.open(tmp_path / "copy", lake)
        list(RowSetReader(row_set, lake_fetch(lake, row_set), batch_sequences=4, local_copy=copy))
        rows = lake.sql("SELECT unit_id, doc_id FROM sequences WHERE NOT held_out LIMIT 1").to_pylist()[0]
        copies = set(copy.directory.iterdir())
        forget(lake, [rows["doc_id"]], reason="asked")
    maintained(config, dry_run=True)
    assert set(copy.directory.iterdir()) == copies
    maintained(config)
    left = set(copy.directory.iterdir())
    assert left < copies
    assert not any(path.name.startswith(rows["unit_id"]) for path in left)


@pytest.mark.slow
def test_forgotten_rows_stay_due_while_a_small_table_is_put_off(
    config: Config, captured: CaptureReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    doc_id = ask(config, "SELECT doc_id FROM documents ORDER BY doc_id LIMIT 1")[0]["doc_id"]
    with Lake.open(location_of(config), read_only=False) as lake:
        forget(lake, [doc_id], reason="asked")
    with monkeypatch.context() as patch:
        patch.setattr("logitlake.flows.maintain.run.merge_small_tables", lambda lake: ["document_sources"])
        report = maintained(config)
    assert (report.small_tables_put_off, report.forgotten_rows_removed) == (1, False)
    report = maintained(config)
    assert (report.small_tables_put_off, report.forgotten_rows_removed) == (0, True)
    assert held_on_disk(config, doc_id) == 0
