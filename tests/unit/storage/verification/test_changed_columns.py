"""Every column of a stored sequence is covered: whatever is changed on disk, `verify` finds it and says where."""

import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import document_id, recipe_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.schema.sequences import SEQUENCES, differing_rows, differing_targets, row_hashes, stored_rows
from logitlake.storage.verification.verify import verify
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe

TRACE: dict[str, Any] = {
    "nll_steps_per_nat": 1024,
    "writer": "student-1",
    "sampling_settings": '{"temperature":1.0}',
    "sampling_seed": 7,
    "sample_number": 3,
    "writer_nll_codes": [5, 7, None],
    "writer_nll_steps_per_nat": 1024,
    "verdict": 1.0,
    "verdict_reason": "right",
}
RECIPE: dict[str, Any] = {"teacher": {"name": "tiny"}, "tokenizer": "words", "sparsifier": {"name": "varopt"}}
ROW: dict[str, Any] = {
    "recipe_id": recipe_id(RECIPE),
    "unit_id": "",
    "checksum": "",
    "corpus": "books",
    "source": "a.txt",
    "n_tokens": 3,
    "n_targets": 2,
    "levels": 64,
    "input_ids": [5, 6, 7],
    "target_ids": [[6, 9, 11], [7, 3, 3], []],
    "head_codes": [[32, 16], [48], []],
    "entropy_codes": [32, 64, None],
    "nll_codes": [16, 8, None],
    "mean_entropy": 1.5,
    "mean_nll": 0.375,
}
WITH_NULLS = pa.schema([field.with_nullable(True) for field in SEQUENCES])
OTHER_LISTS = {
    "input_ids": [5, 6, 99],
    "target_ids": [[6, 9, 11], [7, 3, 4], []],
    "head_codes": [[32, 17], [48], []],
    "entropy_codes": [32, 65, None],
    "nll_codes": [16, None, None],
    "writer_nll_codes": [5, None, None],
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """A lake of two units, opened for reading; document `a` is a trace, the others are not."""
    location = LakeLocation.resolve(tmp_path_factory.mktemp("changed") / "lake")
    with Lake.create(location, held_out_salt="salt", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        for names in ({"a": TRACE, "b": {}}, {"c": {}}):
            rows = [
                ROW | {"doc_id": document_id(name), "window_index": window, "start": 3 * window} | more
                for name, more in names.items()
                for window in range(2)
            ]
            commit_unit(lake, pa.Table.from_pylist(rows, SEQUENCES), recipe=RECIPE, run_id="run", seconds=1.0)
    with Lake.open(location) as lake:
        lake.connection.execute("SET enable_external_file_cache = false")
        yield lake


def _changed(field: pa.Field, value: Any) -> Any:
    if pa.types.is_list(field.type):
        return OTHER_LISTS[field.name] if value is None or value != OTHER_LISTS[field.name] else [1, 2, 3]
    if pa.types.is_string(field.type):
        return f"{value or ''}x"
    if pa.types.is_floating(field.type):
        return math.nextafter(value, 9) if field.type == pa.float64() and value is not None else (value or 0) + 0.001
    return (value or 0) + 1


@contextmanager
def changed_on_disk(
    location: LakeLocation, doc_id: str, column: str, change: Callable[[pa.Field, Any], Any] = _changed
) -> Iterator[str]:
    """One column of window 1 of a document changed in its file, as a disk or a person might; gives the path."""
    path, rows = _file_of(location, doc_id)
    before = path.read_bytes()
    row = next(row for row in rows if (row["doc_id"], row["window_index"]) == (doc_id, 1))
    row[column] = change(SEQUENCES.field(column), row[column])
    pq.write_table(pa.Table.from_pylist(rows, WITH_NULLS), path, store_schema=False)
    _note_size(location, path)
    yield str(path)
    path.write_bytes(before)
    _note_size(location, path)


def _file_of(location: LakeLocation, doc_id: str) -> tuple[Path, list[dict[str, Any]]]:
    for path in Path(location.data).glob("store/sequences/*/*.parquet"):
        rows = pq.read_table(path, partitioning=None).cast(SEQUENCES).to_pylist()
        if doc_id in {row["doc_id"] for row in rows}:
            return path, rows
    raise AssertionError(f"no row of {doc_id}")


def _note_size(location: LakeLocation, path: Path) -> None:
    """DuckLake finds the footer of a file by the sizes in the catalog."""
    footer = int.from_bytes(path.read_bytes()[-8:-4], "little")
    with closing(sqlite3.connect(str(location.catalog_file))) as catalog, catalog:
        catalog.execute(
            "UPDATE ducklake_data_file SET file_size_bytes = ?, footer_size = ? WHERE path LIKE ?",
            [path.stat().st_size, footer, f"%{path.name}"],
        )


@pytest.mark.parametrize("name", ["a", "c"])
@pytest.mark.parametrize("column", [name for name in SEQUENCES.names if name != "recipe_id"])
def test_a_change_of_any_column_on_disk_is_found_and_placed(stored: Lake, column: str, name: str) -> None:
    with changed_on_disk(stored.location, document_id(name), column) as path:
        problems = [check.problem for check in verify(stored) if check.problem]
    assert len(problems) == 1
    doc_id = document_id(name) + ("x" if column == "doc_id" else "")
    window = 2 if column == "window_index" else 1
    assert path in problems[0]
    assert f"document {doc_id} window {window}" in problems[0]


NULLS: dict[str, Callable[[pa.Field, Any], Any]] = {
    "value": lambda field, value: None,
    "inner list": lambda field, value: [*value[:-1], None],
    "leaf": lambda field, value: (
        [[None, *value[0][1:]], *value[1:]] if "list" in str(field.type.value_type) else [None, *value[1:]]
    ),
}
NULL_PLACES = [
    *(("value", field.name) for field in SEQUENCES if not field.nullable and field.name != "recipe_id"),
    *(("inner list", name) for name in ("target_ids", "head_codes")),
    *(("leaf", name) for name in ("input_ids", "target_ids", "head_codes")),
]


@pytest.mark.parametrize(("place", "column"), NULL_PLACES)
def test_a_null_where_none_may_be_is_damage_of_that_row_alone(stored: Lake, place: str, column: str) -> None:
    with changed_on_disk(stored.location, document_id("a"), column, NULLS[place]) as path:
        problems = [check.problem for check in verify(stored) if check.problem]
        rows = stored_rows(stored.sql("FROM store.sequences ORDER BY doc_id NULLS LAST, window_index NULLS LAST"))
        assert pc.sum(differing_rows(rows)).as_py() == 1
        if column in ("n_tokens", "n_targets", "levels", "input_ids", "target_ids", "head_codes"):
            assert pc.sum(differing_targets(rows)).as_py() == 1
    assert len(problems) == 1
    assert path in problems[0]
    assert "1 of " in problems[0] and "do not match their hash" in problems[0]


def test_a_unit_whose_rows_can_not_be_read_is_named_and_the_others_are_checked(stored: Lake) -> None:
    first, second = (check.unit_id for check in verify(stored))
    path = next(Path(stored.location.data).glob(f"store/sequences/*/{first}*.parquet"))
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    try:
        checks = list(verify(stored))
    finally:
        path.write_bytes(before)
    assert [(check.unit_id, bool(check.problem)) for check in checks] == [(first, True), (second, False)]
    assert f"unit {first}: its rows can't be read" in checks[0].problem


def test_no_reader_takes_the_recipe_from_the_file_but_from_its_directory(stored: Lake) -> None:
    """The one column whose stored copy nobody reads: a file belongs to the recipe of its directory."""
    before = stored.sql("SELECT recipe_id, doc_id FROM store.sequences ORDER BY ALL").to_pylist()
    with changed_on_disk(stored.location, document_id("a"), "recipe_id"):
        assert stored.sql("SELECT recipe_id, doc_id FROM store.sequences ORDER BY ALL").to_pylist() == before


def test_a_lake_that_nobody_changed_has_no_problem(stored: Lake) -> None:
    checks = list(verify(stored))
    rows = stored.sql("FROM store.sequences").cast(SEQUENCES)
    assert [check.problem for check in checks] == ["", ""]
    assert [check.n_without_hash for check in checks] == [0, 0]
    assert row_hashes(rows).to_pylist() == rows["row_hash"].to_pylist()
