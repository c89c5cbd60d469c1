import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from logitlake.pipeline.capture.recipe import Recipe, make_recipe
from logitlake.pipeline.settings.models import TargetSettings, TeacherSettings, TokenizationSettings
from logitlake.pipeline.teachers.files import TeacherFiles
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import SettingsError

FILES = TeacherFiles(directory=Path("/a"), tokenizer_directory=Path("/a"), teacher_hash="h" * 32, name="llama-1M")


@pytest.fixture
def recipe_of(tokenizer: TextTokenizer) -> Any:
    def make(
        files: TeacherFiles = FILES,
        teacher: dict[str, Any] | None = None,
        tokenization: dict[str, Any] | None = None,
        target: dict[str, Any] | None = None,
    ) -> Recipe:
        return make_recipe(
            files=files,
            tokenizer=tokenizer,
            teacher=TeacherSettings.model_validate({"model": "x", "dtype": "float32"} | (teacher or {})),
            tokenization=TokenizationSettings.model_validate(tokenization or {}),
            target=TargetSettings.model_validate(target or {}),
        )

    return make


@pytest.mark.parametrize(
    "changed",
    [
        {"files": dataclasses.replace(FILES, teacher_hash="g" * 32)},
        {"files": dataclasses.replace(FILES, adapter_hash="g" * 32)},
        {"teacher": {"dtype": "bfloat16"}},
        {"tokenization": {"window": 256}},
        {"tokenization": {"overlap": 8}},
        {"tokenization": {"bos": "always"}},
        {"tokenization": {"eos": False}},
        {"tokenization": {"chat_targets": "all"}},
        {"target": {"temperature": 2}},
        {"target": {"seed": 1}},
        {"target": {"levels": 128}},
        {"target": {"logprob_steps_per_nat": 1024}},
        {"target": {"threshold": 0.04}},
        {"target": {"sparsifier": "random"}},
        {"target": {"sparsifier": "top_k"}},
        {"target": {"sparsifier": "top_p"}},
    ],
    ids=str,
)
def test_whatever_decides_a_row_changes_the_recipe(recipe_of: Any, changed: dict[str, Any]) -> None:
    assert recipe_of(**changed).recipe_id != recipe_of().recipe_id


@pytest.mark.parametrize(
    "changed",
    [
        {"files": dataclasses.replace(FILES, directory=Path("/b"), tokenizer_directory=Path("/b"))},
        {"teacher": {"model": "y", "revision": "main"}},
        {"teacher": {"device": "cpu"}},
        {"teacher": {"attention": "eager"}},
        {"teacher": {"allow_pickle": True}},
        {"tokenization": {"min_tokens": 5}},
        {"target": {"draws": 7}},
        {"target": {"k": 7}},
        {"target": {"p": 0.5, "max_k": 9}},
        {"target": {"levels": 64}},
    ],
    ids=str,
)
def test_what_decides_no_row_leaves_the_recipe_as_it_is(recipe_of: Any, changed: dict[str, Any]) -> None:
    assert recipe_of(**changed).recipe_id == recipe_of().recipe_id


def test_the_same_settings_have_the_recipe_id_that_they_always_had() -> None:
    """A new recipe id makes every lake run its teacher again: the format version of the lake is not part of it."""
    recipe = Recipe(
        teacher=FILES,
        engine="transformers",
        dtype="float32",
        tokenizer="t" * 32,
        vocabulary=1000,
        chat_template=None,
        chat_targets="assistant",
        bos="never",
        eos=True,
        window=1024,
        overlap=0,
        target=TargetSettings(),
    )
    assert recipe.recipe_id == "8a2f1c4cb08492e470f8ff13ae7aced4"


def test_a_settings_file_that_says_1_means_the_recipe_of_1_0(recipe_of: Any) -> None:
    assert recipe_of(target={"temperature": 1}).recipe_id == recipe_of(target={"temperature": 1.0}).recipe_id


def test_a_recipe_is_plain_json_without_paths(recipe_of: Any) -> None:
    stored = json.dumps(recipe_of().to_dict())
    assert json.loads(stored) == recipe_of().to_dict()
    assert "/a" not in stored


def test_a_recipe_waits_for_the_probe(recipe_of: Any) -> None:
    with pytest.raises(SettingsError, match="probe"):
        recipe_of(target={"target_bytes": 20})


def test_finding_the_recipe_loads_no_torch() -> None:
    code = (
        "import sys, logitlake.pipeline.capture.recipe as r; "
        "from logitlake.pipeline.teachers.dtype import resolve_dtype; "
        "resolve_dtype('auto', 'cpu'); print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
