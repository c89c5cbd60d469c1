"""Extensions come from the installed wheels, and DuckDB checks their signatures."""

import shutil

import duckdb
import pytest

from logitlake.storage.connection import extensions
from logitlake.storage.connection.extensions import load_extension, wheel_file
from logitlake.storage.errors import LakeError
from logitlake.storage.lake.lake import Lake
from tests.quick_duckdb import real_connect


@pytest.fixture(autouse=True)
def _signatures_are_checked(monkeypatch):
    """As outside of tests, which leave the check out to save time."""
    monkeypatch.setattr(duckdb, "connect", real_connect)


def test_a_lake_refuses_extensions_without_a_signature(lake, location):
    with Lake.open(location) as reader:
        assert reader.row("SELECT current_setting('allow_unsigned_extensions') AS unsigned") == {"unsigned": False}


def test_an_extension_that_was_changed_is_refused(tmp_path, monkeypatch):
    changed = tmp_path / "ducklake.duckdb_extension"
    shutil.copy(wheel_file("ducklake"), changed)
    with changed.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"changed")
    monkeypatch.setattr(extensions, "wheel_file", lambda name: changed)
    with duckdb.connect() as connection, pytest.raises(LakeError, match=r"ducklake.*signature"):
        load_extension(connection, "ducklake")
