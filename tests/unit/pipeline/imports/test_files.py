"""Which files of a folder are data."""

import json
from pathlib import Path

import datasets
import pytest

from logitlake.pipeline.imports.files import find_files
from logitlake.storage.errors import SettingsError


def names(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in find_files(folder)]


def test_what_datasets_caches_beside_a_saved_data_set_is_no_data(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"a": [1, 2]}).save_to_disk(str(tmp_path / "saved"))
    before = names(tmp_path)
    loaded = datasets.load_from_disk(str(tmp_path / "saved"))
    loaded.map(lambda row: {"a": row["a"] + 1}, load_from_cache_file=False)
    assert list(tmp_path.rglob("cache-*.arrow"))
    assert names(tmp_path) == before == ["saved/data-00000-of-00001.arrow"]


def test_the_files_of_a_saved_data_set_are_those_that_it_names(tmp_path: Path) -> None:
    for name in ("cache-a.arrow", "old.arrow", "b.parquet"):
        (tmp_path / name).touch()
    assert names(tmp_path) == ["b.parquet", "old.arrow"]
    state = tmp_path / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "cache-a.arrow"}]}))
    assert names(tmp_path) == ["b.parquet", "cache-a.arrow"]
    for other in ("{", "[]", '{"_data_files": 1}', '{"_data_files": [1]}'):
        state.write_text(other)
        assert names(tmp_path) == ["b.parquet", "old.arrow"]


def test_a_folder_of_caches_alone_holds_nothing_to_import(tmp_path: Path) -> None:
    (tmp_path / "cache-a.arrow").touch()
    with pytest.raises(SettingsError, match="found none"):
        find_files(tmp_path)
