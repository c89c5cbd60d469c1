"""Row hashes are added to an old lake on PostgreSQL while other writers commit: no file lock keeps them apart."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from logitlake.flows.maintain.run import MaintainRun
from logitlake.pipeline.settings.models import Config
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeBusyError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.upkeep import hashing
from logitlake.storage.upkeep.hashing import add_row_hashes, count_without_hash
from logitlake.storage.verification.verify import verify_tables
from logitlake.storage.writing.runs import note_run
from tests.integration.old_lake import old_lake_on

pytestmark = pytest.mark.slow


@pytest.fixture
def location(postgres: str, tmp_path: Path) -> LakeLocation:
    location = old_lake_on(postgres, tmp_path / "lake")
    Lake.open(location, read_only=False).close()
    return location


@pytest.fixture
def overtaken(location: LakeLocation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], list[int]]]:
    """Lets another writer commit in the first `times` transactions of a table; returns their numbers of rows."""
    insert = hashing.insert_hashed
    with Lake.open(location, read_only=False) as other:

        def arrange(table: str, times: int) -> list[int]:
            n_rows: list[int] = []

            def insert_overtaken(connection: Any, name: str, rows: pa.Table) -> None:
                insert(connection, name, rows)
                if name != table:
                    return
                n_rows.append(rows.num_rows)
                if len(n_rows) <= times:
                    note_run(other, f"run-{len(n_rows)}", "finished", kind="capture", recipe_id=None)

            monkeypatch.setattr(hashing, "insert_hashed", insert_overtaken)
            return n_rows

        yield arrange


def add_vocabulary(lake: Lake, n_tokens: int) -> None:
    """Rows without a hash, as an older logitlake wrote them."""
    lake.connection.execute(
        "INSERT INTO store.vocabulary BY NAME "
        "SELECT 'large' AS tokenizer_id, i::INTEGER AS token_id, i::VARCHAR AS token, false AS is_special "
        f"FROM range({n_tokens}) AS t(i)"
    )


def test_a_lost_race_is_repeated_with_half_as_many_rows(
    location: LakeLocation, overtaken: Callable[[str, int], list[int]]
) -> None:
    with Lake.open(location, read_only=False) as lake:
        add_vocabulary(lake, 20_000)
        n_without = sum(count_without_hash(lake).values())
        n_rows = overtaken("vocabulary", 1)
        assert add_row_hashes(lake) == n_without
        assert n_rows[:2] == [20_000, 10_000]
        assert count_without_hash(lake) == {}
        assert [check.problem for check in verify_tables(lake) if check.problem] == []


def test_maintain_merges_and_sweeps_although_other_writers_always_commit_first(
    location: LakeLocation, overtaken: Callable[[str, int], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    overtaken("recipes", 1_000_000)
    lake = {"catalog": location.catalog, "data": location.data}
    with (
        caplog.at_level(logging.WARNING),
        MaintainRun(Config.model_validate({"lake": lake, "maintenance": {"grace_hours": 0}})) as run,
    ):
        run.verify()
        run.merge()
        run.sweep()
    assert "`logitlake maintain` goes on" in caplog.text
    assert run.report.merges > 0 and run.report.snapshots_expired > 0
    with Lake.open(location) as lake_after:
        assert count_without_hash(lake_after)


def test_a_large_table_gets_its_hashes_while_another_writer_commits_all_the_time(location: LakeLocation) -> None:
    with Lake.open(location, read_only=False) as lake:
        add_vocabulary(lake, 100_000)
        done, errors = threading.Event(), []

        def write() -> None:
            number = 0
            try:
                with Lake.open(location, read_only=False) as other:
                    while not done.is_set():
                        number += 1
                        note_run(other, f"run-{number}", "finished", kind="capture", recipe_id=None)
                        done.wait(1)
            except LakeBusyError as error:
                errors.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert add_row_hashes(lake) >= 100_000
        finally:
            done.set()
            writer.join()
        assert errors == [] and count_without_hash(lake) == {}
