"""A lake of any settled format can be read, written to and rebuilt by every later logitlake, and says what it said."""

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

from logitlake.storage.errors import FormatVersionError
from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.lake.schema import FORMAT_VERSION
from logitlake.storage.row_sets.registered import read_again
from logitlake.storage.sql.session import ReadSession
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.upkeep.hashing import add_row_hashes
from logitlake.storage.upkeep.rebuild import rebuild
from logitlake.storage.upkeep.verify import verify, verify_tables

GOLDEN = Path(__file__).resolve().parent
answers = runpy.run_path(str(GOLDEN / "make.py"))["answers"]


@pytest.fixture(params=sorted(path.name for path in GOLDEN.glob("format-*")))
def golden(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


@pytest.fixture
def location(golden: Path, tmp_path: Path) -> LakeLocation:
    """A copy, in another place than that where it was made."""
    shutil.copytree(golden / "lake", tmp_path / "lake")
    return LakeLocation.resolve(tmp_path / "lake")


@pytest.fixture
def said(golden: Path) -> dict[str, Any]:
    return dict(json.loads((golden / "answers.json").read_text(encoding="utf-8")))


def test_there_is_a_golden_lake_of_the_format_that_is_written_today():
    assert (GOLDEN / f"format-{FORMAT_VERSION}").exists(), "python -m tests.golden.make writes it"


def test_an_old_lake_answers_as_it_did(location, said):
    with Lake.open(location) as lake:
        assert answers(lake) == said
        assert all(not check.problem for check in verify(lake))


def test_an_old_lake_answers_as_it_did_once_it_was_opened_for_writing(location, said):
    with Lake.create(location, held_out_salt="another", held_out_share=0.5) as lake:
        assert answers(lake) == said
        assert forget(lake, [document_id("c")], reason="asked").n_sequences == 4
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
    monkeypatch.setattr("logitlake.storage.upkeep.rebuild.FORMAT_VERSION", 1)
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


def test_an_old_lake_is_rebuilt_from_its_data_alone(location, said):
    for file in Path(str(location.catalog_file)).parent.glob("catalog.sqlite*"):
        file.unlink()
    assert rebuild(location).skipped == {}
    with Lake.open(location) as lake:
        assert answers(lake) == said
