"""Small lakes of made-up rows to export, and a function that exports one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from logitlake.pipeline.exports.export_format import find_export_format
from logitlake.pipeline.exports.write import export_in_format
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import RowSet, fetch, resolve_row_set
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe

RECIPE = {
    "teacher": {"name": "llama-1M", "weights": "w" * 32, "adapter": None},
    "tokenizer": "t" * 32,
    "vocabulary": 211,
    "temperature": 1.0,
    "sparsifier": {"name": "varopt", "threshold": 0.05},
    "facts": {
        "unbiased": True,
        "cuts_mass": False,
        "heads": "probabilities",
        "noise": "systematic",
        "teacher_gives": "distribution",
    },
}
TOP_K = {
    **RECIPE,
    "sparsifier": {"name": "top_k", "k": 3},
    "facts": {**RECIPE["facts"], "unbiased": False, "cuts_mass": True, "noise": None},
}


class ExportLake:
    """An open lake with one recipe, to which units of made-up documents can be added."""

    def __init__(self, lake: Lake, make_rows: Callable[..., pa.Table], recipe: dict[str, Any]) -> None:
        self.lake, self._make, self.recipe = lake, make_rows, recipe
        self.recipe_id = register_recipe(lake, recipe)
        self._n_units = 0

    def add(self, lengths: list[int], **options: Any) -> None:
        """Commit a unit with a document per length."""
        rows = self._make(
            lengths, seed=self._n_units, recipe_id=self.recipe_id, tail=self.recipe is not TOP_K, **options
        )
        ids = pa.array([document_id(f"{self._n_units} {index}") for index in range(rows.num_rows)])
        rows = rows.set_column(rows.schema.get_field_index("doc_id"), rows.schema.field("doc_id"), ids)
        commit_unit(self.lake, rows, recipe=self.recipe, run_id="run", seconds=1.0)
        self._n_units += 1

    def rows(self, **options: Any) -> RowSet:
        return resolve_row_set(self.lake, recipe_id=self.recipe_id, **options)

    def stored(self, *columns: str, **options: Any) -> pa.Table:
        """Columns of all rows as stored."""
        rows = self.rows(**options)
        return fetch(self.lake, rows, rows.units["unit_id"].to_pylist(), columns)

    def export(self, directory: Path, name: str, *, file_tokens: int | None = None, **options: Any) -> Path:
        rows = self.rows(**options)
        return export_in_format(self.lake, rows, directory, find_export_format(name), file_tokens=file_tokens)


@pytest.fixture(scope="session", params=["varopt", "top_k"])
def any_lake(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_rows: Any
) -> Iterator[ExportLake]:
    """A lake to read: once with heads and tails, once with mass that was cut off."""
    path = tmp_path_factory.mktemp(request.param)
    yield from _filled(path, make_rows, RECIPE if request.param == "varopt" else TOP_K)


@pytest.fixture
def lake(tmp_path: Path, make_rows: Any) -> Iterator[ExportLake]:
    """A lake to change, with heads and tails."""
    yield from _filled(tmp_path, make_rows, RECIPE)


def _filled(path: Path, make_rows: Any, recipe: dict[str, Any]) -> Iterator[ExportLake]:
    with Lake.create(LakeLocation.resolve(path / "lake"), held_out_salt="s", held_out_share=0.25) as lake:
        made = ExportLake(lake, make_rows, recipe)
        made.add([8, 12, 20, 9, 15])
        made.add([30, 7, 11, 5])
        yield made
