"""A lake of any settled format can be read, written to and rebuilt by every later logitlake, and says what it said."""

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.lake.schema import FORMAT_VERSION
from logitlake.storage.row_sets.registered import read_again
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.upkeep.rebuild import rebuild
from logitlake.storage.upkeep.verify import verify

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
