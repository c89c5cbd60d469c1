"""Every later logitlake reads a lake of any settled format, writes to it and rebuilds it, with the same answers.

A later format may add columns to an answer; what was there keeps its name and its value.
"""

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from logitlake.pipeline.reading.batches import TARGET_COLUMNS
from logitlake.pipeline.targets.decoding import decode_targets
from logitlake.storage.connection.extensions import load_extension
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import FormatVersionError, LakeError, QueryError
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.row_sets.registered import read_again
from logitlake.storage.row_sets.row_set import fetch, resolve_row_set
from logitlake.storage.schema.sequences import FORMAT_VERSION
from logitlake.storage.sql.session import ReadSession
from logitlake.storage.upkeep.compaction import compact, plan_compaction
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.upkeep.hashing import add_row_hashes
from logitlake.storage.verification.verify import verify, verify_tables
from logitlake.storage.writing.commits import commit_unit

GOLDEN = Path(__file__).resolve().parent
MAKE = runpy.run_path(str(GOLDEN / "make.py"))
answers = MAKE["answers"]


@pytest.fixture(params=sorted(path.name for path in GOLDEN.glob("format-*")))
def golden(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


@pytest.fixture
def location(golden: Path, tmp_path: Path) -> LakeLocation:
    """A copy, in another place than that where it was made."""
    shutil.copytree(golden / "lake", tmp_path / "lake")
    return LakeLocation.resolve(tmp_path / "lake")


@pytest.fixture
def expected(golden: Path) -> dict[str, Any]:
    return dict(json.loads((golden / "answers.json").read_text(encoding="utf-8")))


def answers_now(lake: Lake, expected: dict[str, Any]) -> dict[str, Any]:
    """The lake's answers, less the columns that the format of `expected` did not have."""
    return {
        name: [{column: row[column] for column in (expected[name] or [row])[0]} for row in rows]
        for name, rows in answers(lake).items()
    }


def upgrade(lake: Lake) -> int:
    """What `maintain` does with rows of an older format; returns how many there were."""
    merges = plan_compaction(lake, target_bytes=1)
    assert all(compact(lake, merge) for merge in merges)
    return sum(merge.n_old_rows for merge in merges)


def test_there_is_a_golden_lake_of_the_format_that_is_written_today():
    assert (GOLDEN / f"format-{FORMAT_VERSION}").exists(), "python -m tests.golden.make writes it"


def test_an_old_lake_answers_as_it_did(location, expected):
    with Lake.open(location) as lake:
        assert answers_now(lake, expected) == expected
        assert all(not check.problem for check in verify(lake))


def test_an_old_lake_answers_as_it_did_once_it_was_opened_for_writing(location, expected):
    with Lake.create(location, held_out_salt="another", held_out_share=0.5) as lake:
        assert answers_now(lake, expected) == expected
        n_recipes = lake.row("SELECT count(*) AS n FROM recipes")["n"]
        assert forget(lake, [document_id("c")], reason="asked").n_sequences == 2 * n_recipes
        assert document_id("c") not in {row["doc_id"] for row in answers(lake)["documents"]}


def test_an_old_lake_is_brought_up_row_for_row_and_its_ids_stay(location):
    ids = [
        "SELECT row_set_id, content_hash FROM row_sets",
        "SELECT student_id, row_set_id FROM students",
        "SELECT recipe_id, recipe FROM recipes",
    ]
    with Lake.open(location) as lake:
        before = [sorted(lake.sql(question).to_pylist(), key=repr) for question in ids]
    with Lake.open(location, read_only=False) as lake:
        add_row_hashes(lake)
        checks = list(verify_tables(lake))
        assert checks and all(not check.n_without_hash and not check.problem for check in checks)
        assert lake.row("SELECT format_version FROM store.guard")["format_version"] == FORMAT_VERSION
        assert [sorted(lake.sql(question).to_pylist(), key=repr) for question in ids] == before
    note = json.loads((Path(location.data) / "lake.json").read_text(encoding="utf-8"))
    assert note["format_version"] == FORMAT_VERSION


def test_an_older_logitlake_refuses_a_lake_that_was_brought_up(location, monkeypatch):
    Lake.open(location, read_only=False).close()
    for module in ("migration", "creation"):
        monkeypatch.setattr(f"logitlake.storage.lake.{module}.FORMAT_VERSION", 1)
    monkeypatch.setattr("logitlake.storage.recovery.notes.FORMAT_VERSION", 1)
    for read_only in (True, False):
        with pytest.raises(FormatVersionError, match="upgrade"):
            Lake.open(location, read_only=read_only)
    for file in Path(str(location.catalog_file)).parent.glob("catalog.sqlite*"):
        file.unlink()
    with pytest.raises(FormatVersionError, match="upgrade"):
        rebuild(location)


def test_an_old_lake_is_asked_for_any_commit_and_without_its_held_out_documents(location):
    with ReadSession(location, as_of=3) as session:
        assert session.ask("SELECT count(*) AS n FROM commits")["n"].to_pylist() == [1]
    with ReadSession(location, held_out=False) as session:
        assert session.ask("SELECT bool_or(held_out) AS any FROM documents")["any"].to_pylist() == [False]


def test_an_old_row_set_can_be_read_again_less_what_was_forgotten(location):
    with Lake.open(location) as lake:
        again = read_again(lake, lake.row("SELECT row_set_id FROM row_sets")["row_set_id"])
        assert again.rows.n_sequences > 0 and again.n_missing == 2


def test_an_old_lake_is_rebuilt_from_its_data_alone(location, expected):
    for file in Path(str(location.catalog_file)).parent.glob("catalog.sqlite*"):
        file.unlink()
    assert rebuild(location).skipped == {}
    with Lake.open(location) as lake:
        assert answers_now(lake, expected) == expected
        assert lake.row("SELECT format_version FROM store.guard")["format_version"] == FORMAT_VERSION
    note = json.loads((Path(location.data) / "lake.json").read_text(encoding="utf-8"))
    assert note["format_version"] == FORMAT_VERSION


def test_an_old_lake_that_is_opened_for_reading_is_asked_by_the_name_of_the_lake(location):
    question = "SELECT doc_id FROM {} ORDER BY ALL"
    with ReadSession(location) as session:
        assert session.ask(question.format("lake.documents")) == session.ask(question.format("documents"))
    with ReadSession(location, held_out=False) as session, pytest.raises(QueryError, match="lake"):
        session.ask(question.format("lake.documents"))


def test_internal_views_of_an_older_logitlake_are_dropped_and_views_of_people_stay(location):
    views = "SELECT view_name FROM duckdb_views() WHERE database_name = 'lake' AND schema_name = '{}'"
    with Lake.open(location, read_only=False) as lake:
        lake.connection.execute("CREATE VIEW store.of_old AS SELECT 1 AS one")
        lake.connection.execute("CREATE VIEW of_a_person AS SELECT 1 AS one")
    with Lake.open(location, read_only=False) as lake:
        internal = set(lake.sql(views.format("store"))["view_name"].to_pylist())
        assert "visible_sequences" in internal
        assert not internal & {"kept", "found_sequences", "of_old"}
        assert "of_a_person" in lake.sql(views.format("main"))["view_name"].to_pylist()


def test_an_old_lake_without_a_time_of_creation_is_brought_up(location):
    remove_setting(location, "created_at")
    with Lake.open(location, read_only=False) as lake:
        assert lake.held_out_salt == "golden"


def test_an_old_lake_without_its_rule_for_held_out_documents_is_refused_by_name(location):
    remove_setting(location, "held_out_share")
    for read_only in (True, False):
        with pytest.raises(LakeError, match="settings lack held_out_share"):
            Lake.open(location, read_only=read_only)


def remove_setting(location: LakeLocation, name: str) -> None:
    with duckdb.connect() as connection:
        for extension in ("ducklake", "sqlite_scanner"):
            load_extension(connection, extension)
        connection.execute(
            f"ATTACH 'ducklake:{location.catalog}' AS lake (DATA_PATH '{location.data}', OVERRIDE_DATA_PATH true)"
        )
        connection.execute("DELETE FROM lake.store.lake_settings WHERE name = ?", [name])


def test_maintain_brings_an_old_lake_up_row_for_row(location, golden, expected):
    with Lake.create(location, held_out_salt="another", held_out_share=0.5) as lake:
        n_rows = lake.row("SELECT count(*) AS n FROM store.sequences")["n"]
        recipe_ids = [row["recipe_id"] for row in lake.sql("SELECT recipe_id FROM recipes").to_pylist()]
        before = [resolve_row_set(lake, recipe_id=recipe_id) for recipe_id in recipe_ids]
        n_old = sum(check.n_without_hash for check in verify(lake))
        assert n_old == (n_rows if golden.name == "format-1" else 0)
        # Stopped after the first file, the next run goes on with the others.
        first = plan_compaction(lake, target_bytes=1)[:1]
        assert all(compact(lake, merge) for merge in first)
        assert sum(merge.n_old_rows for merge in first) + upgrade(lake) == n_old
        assert plan_compaction(lake, target_bytes=1) == []
        checks = list(verify(lake))
        assert not any(check.problem or check.n_without_hash for check in checks)
        assert answers_now(lake, expected) == expected
        after = [resolve_row_set(lake, recipe_id=recipe_id) for recipe_id in recipe_ids]
        assert [row_set.row_set_id for row_set in after] == [row_set.row_set_id for row_set in before]


def test_a_lake_holds_rows_of_both_formats_and_every_reader_reads_them(location, golden):
    recipe = MAKE["RECIPES"][0]
    with Lake.create(location, held_out_salt="another", held_out_share=0.5) as lake:
        rows = MAKE["_rows"](recipe, ("f", "g", "h", "i", "j"))
        commit_unit(lake, rows, recipe=recipe, run_id="new", seconds=1.0)
        row_set = resolve_row_set(lake, recipe_id=id_of_recipe(recipe))
        unit_ids = row_set.units["unit_id"].to_pylist()
        rows = fetch(lake, row_set, unit_ids, [*TARGET_COLUMNS, "nll_steps_per_nat", "row_hash"])
        n_old = rows["row_hash"].null_count
        assert 0 < n_old < rows.num_rows if golden.name == "format-1" else n_old == 0
        assert rows["nll_steps_per_nat"].null_count == rows.num_rows == row_set.n_sequences
        one_row = [0.5, 0.25, 0.125, 0.125, 0.75, 0.125, 0.125]
        assert decode_targets(rows).probs.tolist() == one_row * rows.num_rows
        assert not any(check.problem for check in verify(lake))
