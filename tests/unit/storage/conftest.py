"""Small made-up rows and lakes: storage neither knows nor cares where targets come from."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.schema.sequences import SEQUENCES
from logitlake.storage.students.losses import LOSSES, record_losses
from logitlake.storage.students.promotions import promote
from logitlake.storage.students.registry import register_student
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.verification.known_damage import Damage, record_damage
from logitlake.storage.writing.commits import REJECTS, SOURCES, commit_unit
from logitlake.storage.writing.forgotten_samples import note_forgotten_samples
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary
from logitlake.storage.writing.runs import note_run
from logitlake.storage.writing.traces import commit_traces
from tests.tiny_traces import PROMPTS, trace_rows, verdict_rows

RECIPE: dict[str, Any] = {
    "teacher": {"name": "tiny", "hash": "t"},
    "tokenizer": "words",
    "sparsifier": {"name": "varopt", "threshold": 0.05},
    "temperature": 1.0,
}


@pytest.fixture
def recipe() -> dict[str, Any]:
    return dict(RECIPE)


def rows_of(*names: str, recipe: dict[str, Any] = RECIPE, corpus: str = "books") -> pa.Table:
    """Rows for named documents: every document has two windows of three tokens, two heads and one tail a position."""
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


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., pa.Table]:
    return rows_of


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


@pytest.fixture(scope="session")
def every_table(tmp_path_factory: pytest.TempPathFactory, empty_lake: Path) -> Path:
    """A lake with at least one row in each table, all of them in Parquet files."""
    directory = tmp_path_factory.mktemp("every-table") / "lake"
    shutil.copytree(empty_lake, directory)
    with Lake.open(LakeLocation.resolve(directory), read_only=False, lock_timeout=20) as lake:
        fill_every_table(lake)
        lake.sql("CALL ducklake_flush_inlined_data('lake')")
    return directory


@pytest.fixture
def full_lake(location: LakeLocation, every_table: Path) -> Iterator[Lake]:
    """A copy of `every_table`."""
    shutil.copytree(every_table, location.state_directory)
    with Lake.open(location, read_only=False, lock_timeout=20) as lake:
        yield lake


def fill_every_table(lake: Lake) -> None:
    """Two commits, traces, a forgotten document, a row set chosen by a query, an evaluated and promoted student."""
    register_vocabulary(lake, "words", ["<s>", "the"], {0})
    register_recipe(lake, RECIPE)
    note_run(lake, "run", "started", kind="capture", recipe_id=id_of_recipe(RECIPE), expected=3)
    for names in (("a", "b"), ("c", "d")):
        sources = [{"doc_id": document_id(n), "corpus": "books", "source": f"{n}.txt", "line": None} for n in names]
        rejects = [{"corpus": "books", "source": names[0], "line": 7, "reason": "empty", "detail": "no text"}]
        commit_unit(
            lake,
            rows_of(*names),
            recipe=RECIPE,
            run_id="run",
            seconds=2.0,
            sources=pa.Table.from_pylist(sources, SOURCES),
            rejects=pa.Table.from_pylist(rejects, REJECTS),
        )
    traces = trace_rows(PROMPTS[:1])
    commit_traces(lake, traces, verdict_rows(traces), run_id="run")
    with lake.transaction() as transaction:
        note_forgotten_samples(transaction, traces["doc_id"].to_pylist()[:1], datetime.now(UTC))
    row_set = resolve_row_set(lake, recipe_id=id_of_recipe(RECIPE), query="SELECT doc_id, 2.0 AS weight FROM documents")
    register_row_set(lake, row_set)
    register_student(
        lake,
        student_id="student",
        parent_id="teacher",
        row_set_id=row_set.row_set_id,
        run_id="run",
        directory="students/student",
        settings={"training": {"epochs": 1}},
        metrics={"train_loss": 1.5},
    )
    losses = [
        {"doc_id": document_id(name), "n_targets": 4, "student_loss": 8.0, "teacher_loss": 6.0, "kl": None}
        for name in ("a", "b")
    ]
    record_losses(
        lake,
        pa.Table.from_pylist(losses, LOSSES),
        student_id="student",
        recipe_id=id_of_recipe(RECIPE),
        run_id="run",
        exact=False,
    )
    known = Damage(table_name="sequences", unit_id="u", recipe_id="r", doc_id="d", file="f", problem="made up")
    record_damage(lake, [known], unit_ids=[], tables=[])
    promote(lake, "student", expected=None, figures={"reason": "first"}, run_id="run")
    forget(lake, [document_id("b")], reason="asked")


@pytest.fixture
def damage() -> Callable[..., None]:
    """Change the values of a column of a small table's Parquet file, with a footer of the length that the catalog
    expects: all that DuckLake itself would notice."""

    def change(file: Path, column: str, *, by: int = 1) -> None:
        with pq.ParquetFile(file) as parquet:
            rows = parquet.read()
        field = rows.schema.field(column)
        values = pa.array([_another_value(value, field.type, by) for value in rows[column].to_pylist()], field.type)
        pq.write_table(rows.set_column(rows.column_names.index(column), field, values), file)
        footer_size = int.from_bytes(file.read_bytes()[-8:-4], "little")
        catalog = file.parents[3] / "catalog.sqlite"
        with contextlib.closing(sqlite3.connect(catalog, timeout=20)) as connection, connection:
            connection.execute(
                "UPDATE ducklake_data_file SET file_size_bytes = ?, footer_size = ? WHERE path = ?",
                (file.stat().st_size, footer_size, file.name),
            )

    return change


def _another_value(value: Any, kind: pa.DataType, by: int) -> Any:
    if pa.types.is_list(kind):
        return [*(value or []), "other" if pa.types.is_string(kind.value_type) else 1]
    if pa.types.is_boolean(kind):
        return not value
    if pa.types.is_timestamp(kind):
        return value + timedelta(microseconds=1)
    return f"{value or ''}x" if pa.types.is_string(kind) else (value or 0) + by
