"""Losses by document: the last measurement counts, and they go where the document goes."""

import pyarrow as pa
import pytest

from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.schema.tables import NAME
from logitlake.storage.students.losses import LOSSES, record_losses
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe


@pytest.fixture
def measured(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    commit_unit(lake, make_rows("a", "b"), recipe=recipe, run_id="run", seconds=1.0)
    record(lake, recipe, a=(4, 8.0), b=(4, 6.0))
    return lake


def record(lake, recipe, **documents):
    rows = [
        {"doc_id": document_id(name), "n_targets": n, "student_loss": loss, "teacher_loss": n * 1.0, "kl": None}
        for name, (n, loss) in documents.items()
    ]
    which = {"student_id": "s", "recipe_id": id_of_recipe(recipe), "run_id": "m"}
    record_losses(lake, pa.Table.from_pylist(rows, LOSSES), exact=False, **which)


def shown(lake):
    rows = lake.sql("SELECT doc_id, student_loss, gap FROM student_losses").to_pylist()
    return {row["doc_id"]: (row["student_loss"], row["gap"]) for row in rows}


def test_losses_are_means_over_targets_beside_the_teachers(measured):
    assert shown(measured) == {document_id("a"): (2.0, 1.0), document_id("b"): (1.5, 0.5)}


def test_a_later_measurement_replaces_an_earlier_one_unless_it_covers_less(measured, recipe):
    record(measured, recipe, a=(4, 4.0), b=(2, 99.0))
    assert shown(measured) == {document_id("a"): (1.0, 0.0), document_id("b"): (1.5, 0.5)}


def test_a_forgotten_document_has_no_losses_even_after_a_rebuild(measured, recipe, location):
    forget(measured, [document_id("a")], reason="asked")
    record(measured, recipe, a=(4, 1.0))
    assert set(shown(measured)) == {document_id("b")}
    measured.close()
    for file in location.state_directory.glob("catalog.sqlite*"):
        file.unlink()
    rebuild(location)
    with Lake.open(location) as lake:
        assert shown(lake) == {document_id("b"): (1.5, 0.5)}


def test_a_lake_of_an_older_logitlake_gains_table_and_views_when_it_is_opened_for_writing(lake, location, recipe):
    lake.connection.execute(f"DROP VIEW {NAME}.main.student_losses")
    lake.connection.execute(f"DROP TABLE {NAME}.store.student_losses")
    lake.connection.execute("UPDATE store.lake_settings SET value = 'older' WHERE name = 'views'")
    lake.close()
    with Lake.open(location) as reader:
        assert reader.row("SELECT count(*) AS n FROM documents") == {"n": 0}
    with Lake.open(location, read_only=False) as writer:
        record(writer, recipe, a=(4, 8.0))
        assert writer.sql("SELECT * FROM student_losses").num_rows == 1
