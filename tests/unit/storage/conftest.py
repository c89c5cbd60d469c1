"""Small made-up rows and lakes: storage neither knows nor cares where targets come from."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.lake.schema import SEQUENCES
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe

RECIPE: dict[str, Any] = {
    "teacher": {"name": "tiny", "hash": "t"},
    "tokenizer": "words",
    "sparsifier": {"name": "varopt", "threshold": 0.05},
    "temperature": 1.0,
}


@pytest.fixture
def recipe() -> dict[str, Any]:
    return dict(RECIPE)


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., pa.Table]:
    """Rows for named documents: every document has two windows of three tokens, two heads and one tail a position."""

    def make(*names: str, recipe: dict[str, Any] = RECIPE, corpus: str = "books") -> pa.Table:
        rows = []
        for name in names:
            for window in range(2):
                rows.append(
                    {
                        "recipe_id": id_of_recipe(recipe),
                        "doc_id": document_id(name),
                        "unit_id": "",
                        "corpus": corpus,
                        "source": f"{name}.txt",
                        "window_index": window,
                        "start": 3 * window,
                        "n_tokens": 3,
                        "n_targets": 2,
                        "levels": 64,
                        "input_ids": [5, 6, 7 + window],
                        "target_ids": [[6, 9, 11], [7, 3, 3], []],
                        "head_codes": [[32, 16], [48], []],
                        "entropy_codes": [32, 64, None],
                        "nll_codes": [16, 8, None],
                        "mean_entropy": 1.5 + len(name),
                        "mean_nll": 0.375,
                        "checksum": "",
                    }
                )
        return pa.Table.from_pylist(rows, SEQUENCES)

    return make


@pytest.fixture(scope="session")
def empty_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty lake, made once: a lake can be copied and moved, so each test gets a copy."""
    directory = tmp_path_factory.mktemp("empty") / "lake"
    Lake.create(LakeLocation.resolve(directory), held_out_salt="salt", held_out_share=0.0).close()
    return directory


@pytest.fixture(scope="session")
def split_template(tmp_path_factory: pytest.TempPathFactory, make_rows: Callable[..., pa.Table]) -> Path:
    """Thirty documents in three commits, some of them held out; made once, for `split_lake` to copy."""
    directory = tmp_path_factory.mktemp("split") / "lake"
    with Lake.create(LakeLocation.resolve(directory), held_out_salt="salt", held_out_share=0.3) as lake:
        register_recipe(lake, RECIPE)
        for first in range(0, 30, 10):
            names = [f"document {number}" for number in range(first, first + 10)]
            commit_unit(lake, make_rows(*names), recipe=RECIPE, run_id="run", seconds=1.0)
    return directory


@pytest.fixture
def split_lake(location: LakeLocation, split_template: Path) -> Iterator[Lake]:
    """A copy of the lake with held-out documents, open for writing."""
    shutil.copytree(split_template, location.state_directory)
    with Lake.open(location, read_only=False) as lake:
        yield lake


@pytest.fixture
def location(tmp_path: Path) -> LakeLocation:
    return LakeLocation.resolve(tmp_path / "lake")


@pytest.fixture
def lake(location: LakeLocation, empty_lake: Path) -> Iterator[Lake]:
    shutil.copytree(empty_lake, location.state_directory)
    with Lake.open(location, read_only=False, lock_timeout=20) as lake:
        yield lake
