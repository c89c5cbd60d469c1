"""What docs/operations.md says about backups, done as it says: restored elsewhere it is the same lake."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.distill.job import StudentJob
from logitlake.flows.distill.run import DistillRun
from logitlake.flows.maintain.run import MaintainRun
from logitlake.flows.redistill.run import RedistillRun
from logitlake.flows.reports import CaptureReport, DistillReport
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import IntegrityError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.row_sets.registered import read_again
from logitlake.storage.students.promotions import student_of
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.verification.verify import verify

OPERATIONS = Path(__file__).resolve().parents[4] / "docs" / "operations.md"


def commands() -> tuple[list[str], list[str]]:
    """The lines of the two shell blocks: making a backup, and restoring it."""
    section = OPERATIONS.read_text(encoding="utf-8").partition("## Backup and restore")[2].partition("\n## ")[0]
    make, restore = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return make.strip().splitlines(), restore.strip().splitlines()


def run(line: str, directory: Path) -> None:
    """A line of a block, by the interpreter of these tests."""
    line = re.sub(r"^python ", f"{sys.executable} ", line)
    done = subprocess.run(["sh", "-c", line], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}: {done.stderr}"


def trained(config: Config, job: StudentJob | None = None) -> DistillReport:
    with DistillRun(config, job) as run:
        if not run.student_exists:
            run.train()
            run.evaluate()
            run.commit()
    return run.report


def night(config: Config, capture: CaptureReport) -> str | None:
    with RedistillRun(config) as run:
        run.captured(capture)
        while (attempt := run.next()) is not None:
            run.decide(attempt, trained(config, attempt.job))
    return run.report.current


def ask(config: Config, query: str) -> list[dict[str, Any]]:
    with Lake.open(location_of(config)) as lake:
        return lake.sql(query).to_pylist()


@pytest.fixture
def restored(config: Config, tmp_path: Path) -> Config:
    """Settings for the lake restored into another directory."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lake = config.lake.model_copy(update={"path": elsewhere / "lake"})
    return config.model_copy(update={"lake": lake})


@pytest.mark.slow
def test_a_backup_made_while_a_capture_runs_is_a_whole_lake_elsewhere(
    config: Config, restored: Config, run_capture: Any, tmp_path: Path
) -> None:
    make, restore = commands()
    capped = config.model_copy(update={"capture": config.capture.model_copy(update={"max_tokens": 320})})
    student = night(capped, run_capture(capped))
    seen = ask(config, "SELECT row_set_id FROM students")[0]["row_set_id"]
    catalog = next(number for number, line in enumerate(make) if "VACUUM" in line) + 1
    for line in make[:catalog]:
        run(line, tmp_path)
    before = ask(config, "SELECT doc_id, window_index, checksum FROM sequences ORDER BY ALL")
    with CaptureRun(config) as running:
        for number in running.units():
            running.commit(running.compute(number))
    assert running.report.n_documents > 0
    for line in make[catalog:]:
        run(line, tmp_path)
    # The disaster: nothing of the old place is left.
    shutil.rmtree(config.lake.path)
    shutil.move(tmp_path / "backup", tmp_path / "elsewhere" / "backup")
    for line in restore:
        if not line.startswith("logitlake"):
            run(line, tmp_path / "elsewhere")
    assert ask(restored, "SELECT doc_id, window_index, checksum FROM sequences ORDER BY ALL") == before
    with Lake.open(location_of(restored)) as lake:
        assert all(not check.problem for check in verify(lake))
        assert student_of(lake) == student
        assert read_again(lake, seen).n_missing == 0
    # The copied data holds what the capture committed meanwhile: nothing is written by a catalog that does not know it.
    with pytest.raises(IntegrityError, match="logitlake rebuild"):
        run_capture(restored)
    (restored.lake.path / "catalog.sqlite").rename(tmp_path / "older.sqlite")
    rebuild(location_of(restored))
    again = run_capture(restored)
    assert again.n_documents == 0, "what was committed while the backup was made is there"
    assert len(ask(restored, "SELECT DISTINCT doc_id FROM sequences")) > len({row["doc_id"] for row in before})
    assert night(restored, again) not in (None, student), "the next student learns on from the restored one"


@pytest.mark.slow
def test_what_was_forgotten_after_the_backup_is_forgotten_again(
    config: Config, restored: Config, captured: CaptureReport, tmp_path: Path
) -> None:
    make, restore = commands()
    (config.lake.path / "students").mkdir()
    for line in make:
        run(line, tmp_path)
    with Lake.open(location_of(config), read_only=False) as lake:
        doc_id = lake.row("SELECT doc_id FROM documents")["doc_id"]
        forget(lake, [doc_id], reason="asked")
    shutil.move(tmp_path / "backup", tmp_path / "elsewhere" / "backup")
    for line in restore:
        if not line.startswith("logitlake"):
            run(line, tmp_path / "elsewhere")
    assert ask(restored, f"SELECT count(*) AS n FROM sequences WHERE doc_id = '{doc_id}'") != [{"n": 0}]
    shutil.copytree(config.lake.path / "data" / "tombstones", restored.lake.path / "data" / "tombstones")
    with MaintainRun(restored) as upkeep:
        upkeep.verify()
        upkeep.merge()
        upkeep.sweep()
    assert upkeep.report.forgotten_again == 1
    assert ask(restored, f"SELECT count(*) AS n FROM sequences WHERE doc_id = '{doc_id}'") == [{"n": 0}]
