"""A teacher whose tokenizer gives other ids gets another recipe, and a person is told before anything is computed."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.capture.other_tokenizer import other_tokenizer
from logitlake.flows.capture.preparation import prepare
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.session import query
from tests.tiny_lake import capture_all


@pytest.fixture
def own_teacher(raw_config: dict[str, Any], tiny_teacher: Path, tmp_path: Path) -> Path:
    directory = Path(shutil.copytree(tiny_teacher, tmp_path / "own teacher"))
    raw_config["teacher"]["model"] = str(directory)
    return directory


@pytest.mark.slow
def test_another_tokenizer_is_another_recipe_beside_the_older_rows(
    own_teacher: Path, raw_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = Config.model_validate(raw_config)
    file = own_teacher / "tokenizer.json"
    original = file.read_text()
    first = capture_all(config)
    # A space before each text, as a conversion may add or lose it.
    changed = json.loads(original)
    changed["pre_tokenizer"]["add_prefix_space"] = True
    file.write_text(json.dumps(changed))
    with Lake.open(location_of(config)) as lake:
        warning = other_tokenizer(prepare(config), lake)
    assert first.recipe_id in warning and "teacher.gguf_tokenizer" in warning
    with caplog.at_level(logging.WARNING):
        second = capture_all(config)
    assert "another tokenizer" in caplog.text
    assert (second.n_documents, second.recipe_id != first.recipe_id) == (first.n_documents, True)
    counts = query(location_of(config), "SELECT recipe_id, count(*) AS n FROM documents GROUP BY ALL").to_pylist()
    assert {row["recipe_id"]: row["n"] for row in counts} == dict.fromkeys(
        (first.recipe_id, second.recipe_id), first.n_documents
    )
    file.write_text(original)
    again = capture_all(config)
    assert (again.recipe_id, again.n_documents) == (first.recipe_id, 0)


def test_a_recipe_that_differs_in_more_is_no_news(own_teacher: Path, raw_config: dict[str, Any]) -> None:
    config = Config.model_validate(raw_config)
    capture_all(config)
    raw_config["tokenization"] = {"window": 16, "overlap": 0}
    config = Config.model_validate(raw_config)
    with Lake.open(location_of(config)) as lake:
        assert other_tokenizer(prepare(config), lake) == ""
