"""The same tensors under another config are another teacher, and a lake of an older logitlake goes on as it was."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.capture.preparation import prepare
from logitlake.flows.settings import location_of
from logitlake.pipeline.model_files.files import check_same_teacher
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import MismatchError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.session import query
from logitlake.storage.writing.recipes import find_recipe
from logitlake.storage.writing.teacher_configs import note_config, noted_config
from tests.tiny_lake import capture_all


@pytest.fixture
def own_teacher(raw_config: dict[str, Any], tiny_teacher: Path, tmp_path: Path) -> Path:
    """A teacher whose files a test may change."""
    directory = Path(shutil.copytree(tiny_teacher, tmp_path / "own teacher"))
    raw_config["teacher"]["model"] = str(directory)
    return directory


def change(teacher: Path, **settings: Any) -> None:
    file = teacher / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.slow
def test_another_config_is_another_recipe(own_teacher: Path, raw_config: dict[str, Any]) -> None:
    config = Config.model_validate(raw_config)
    first = capture_all(config)
    assert capture_all(config).n_documents == 0
    change(own_teacher, rope_parameters={"rope_type": "default", "rope_theta": 7.0})
    second = capture_all(config)
    assert second.n_documents == first.n_documents
    assert second.recipe_id != first.recipe_id


@pytest.mark.slow
def test_an_older_lake_goes_on_under_its_recipe_until_the_config_changes(
    own_teacher: Path, raw_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate(raw_config)
    with monkeypatch.context() as older:
        older.setattr("logitlake.pipeline.model_files.files.hash_config", lambda *_, **__: None)
        first = capture_all(config)
    prepared = prepare(config)
    assert prepared.recipe.recipe_id == first.recipe_id
    assert noted_config(location_of(config), first.recipe_id) is None, "asking notes nothing"
    corpus = Path(raw_config["corpora"][0]["path"])
    raw_config["corpora"][0]["path"] = str(own_teacher.parent / "more.jsonl")
    (own_teacher.parent / "more.jsonl").write_bytes(corpus.read_bytes() + b'{"text": "the log and the mat"}\n')
    config = Config.model_validate(raw_config)
    assert capture_all(config).n_documents == 1
    assert noted_config(location_of(config), first.recipe_id) == prepared.files.config_hash
    change(own_teacher, rope_parameters={"rope_type": "default", "rope_theta": 7.0})
    other = capture_all(config)
    assert other.recipe_id != first.recipe_id
    assert other.n_documents == first.n_documents + 1


def test_the_lake_says_which_teacher_it_was(own_teacher: Path, raw_config: dict[str, Any]) -> None:
    (own_teacher / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: owner/base\n---\n")
    config = Config.model_validate(raw_config)
    capture_all(config)
    question = "SELECT teacher_model, teacher_revision, teacher_licence, teacher_base_models FROM recipes"
    assert query(location_of(config), question).to_pylist() == [
        {
            "teacher_model": str(own_teacher),
            "teacher_revision": None,
            "teacher_licence": "apache-2.0",
            "teacher_base_models": ["owner/base"],
        }
    ]


@pytest.mark.slow
def test_an_older_lake_with_a_probed_size_goes_on_under_its_recipe(
    own_teacher: Path, raw_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_config["target"] = {"target_bytes": 30}
    config = Config.model_validate(raw_config)
    with monkeypatch.context() as older:
        older.setattr("logitlake.pipeline.model_files.files.hash_config", lambda *_, **__: None)
        first = capture_all(config)
    again = capture_all(config)
    assert (again.n_documents, again.recipe_id) == (0, first.recipe_id)
    change(own_teacher, rope_parameters={"rope_type": "default", "rope_theta": 7.0})
    assert capture_all(config).recipe_id == first.recipe_id, "no capture has noted a config yet"


def test_another_config_than_the_noted_one_is_not_taken_for_the_teacher(
    own_teacher: Path, raw_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate(raw_config)
    with monkeypatch.context() as older:
        older.setattr("logitlake.pipeline.model_files.files.hash_config", lambda *_, **__: None)
        first = capture_all(config)
    files = prepare(config).files
    assert files.config_hash is not None
    with Lake.open(location_of(config)) as lake:
        check_same_teacher(files, find_recipe(lake, first.recipe_id)[1])
        note_config(location_of(config), first.recipe_id, "another")
        with pytest.raises(MismatchError, match="expected config another"):
            check_same_teacher(files, find_recipe(lake, first.recipe_id)[1])
