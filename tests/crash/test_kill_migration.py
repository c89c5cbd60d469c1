"""A lake of format 1 that is brought up to the format of today and killed on the way by each signal: the next call goes
on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE, MIGRATION_FAILPOINTS, SIGNAL_VARIABLE
from logitlake.storage.lake.lake import Lake
from logitlake.storage.schema.sequences import FORMAT_VERSION
from logitlake.storage.schema.tables import ROW_HASH, TABLES
from logitlake.storage.upkeep.hashing import count_without_hash
from logitlake.storage.verification.verify import verify_tables

FORMAT_1 = Path(__file__).parents[1] / "golden" / "format-1" / "lake"
CHILD = """
import sys
from pathlib import Path

from logitlake.storage.lake.lake import Lake
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.upkeep.hashing import add_row_hashes

with Lake.open(LakeLocation.resolve(Path(sys.argv[1])), read_only=False) as lake:
    add_row_hashes(lake)
"""


SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")


def _bring_up(directory: Path, kill_at: str | None = None, name: str = "SIGKILL") -> int:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    environment.pop(ENVIRONMENT_VARIABLE, None)
    if kill_at:
        environment |= {ENVIRONMENT_VARIABLE: kill_at, SIGNAL_VARIABLE: name}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(directory)], env=environment, capture_output=True, text=True
    )
    assert done.returncode in (0, -signal.Signals[name]), done.stderr
    return done.returncode


def _content(lake: Lake) -> dict[str, list[str]]:
    """All rows of the small tables without their hashes."""
    return {
        name: sorted(map(repr, lake.sql(f"SELECT * EXCLUDE ({ROW_HASH}) FROM store.{name}").to_pylist()))
        for name, table in TABLES.items()
        if table.hashed and name != "lake_settings"
    }


def _cases() -> list[object]:
    cases = [(place, name) for place in ("rows-hashed:4", *MIGRATION_FAILPOINTS) for name in SIGNALS]
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(("kill_at", "name"), _cases())
def test_a_killed_migration_loses_nothing_and_the_next_one_completes_it(tmp_path, kill_at, name):
    directory = tmp_path / "lake"
    shutil.copytree(FORMAT_1, directory)
    location = LakeLocation.resolve(directory)
    with Lake.open(location) as lake:
        before = _content(lake)
        total = sum(count_without_hash(lake).values())
    assert _bring_up(directory, kill_at, name) == -signal.Signals[name]
    with Lake.open(location) as lake:
        assert _content(lake) == before
        left = sum(count_without_hash(lake).values())
        assert 0 < left < total if "rows-hashed" in kill_at else left >= total - 1
        assert [check.problem for check in verify_tables(lake) if check.problem] == []
    assert _bring_up(directory) == 0
    with Lake.open(location) as lake:
        assert _content(lake) == before
        assert count_without_hash(lake) == {}
        assert lake.row("SELECT format_version FROM lake.store.guard")["format_version"] == FORMAT_VERSION
        assert [check.problem for check in verify_tables(lake) if check.problem] == []
    note = json.loads((location.data_directory / "lake.json").read_text(encoding="utf-8"))
    assert note["format_version"] == FORMAT_VERSION
