import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from logitlake.pipeline.capture.recipe import Recipe, make_recipe
from logitlake.pipeline.capture.target_size_question import probe_key
from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.origin import TeacherOrigin
from logitlake.pipeline.settings.models import TargetSettings, TeacherSettings, TokenizationSettings
from logitlake.pipeline.teachers.engine import EngineKind
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import SettingsError
from logitlake.storage.identity import recipe_id as id_of
from logitlake.storage.target_facts import FACTS_OF_OLD_RECIPES, target_facts

FILES = TeacherFiles(directory=Path("/a"), teacher_hash="h" * 32, name="llama-1M")


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
        {"files": dataclasses.replace(FILES, config_hash="g" * 32)},
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
        {"files": dataclasses.replace(FILES, directory=Path("/b"))},
        {"files": dataclasses.replace(FILES, origin=TeacherOrigin(model="owner/name", licence="mit"))},
        {"teacher": {"model": "y", "revision": "main"}},
        {"teacher": {"device": "cpu"}},
        {"teacher": {"attention": "eager"}},
        {"teacher": {"allow_pickle": True}},
        {"tokenization": {"min_tokens": 5}},
        {"target": {"levels": 64}},
    ],
    ids=str,
)
def test_what_decides_no_row_leaves_the_recipe_as_it_is(recipe_of: Any, changed: dict[str, Any]) -> None:
    assert recipe_of(**changed).recipe_id == recipe_of().recipe_id


@pytest.mark.parametrize(
    ("target", "recipe_id", "question"),
    [
        ({}, "7285a1895b3a77b3d3d46aa2d4fd9ea1", "a19200fa98531c6a2684aebb777a7b1e"),
        ({"threshold": 0.1}, "6181d55321bc445aa5ca1dd51e2e7594", "a19200fa98531c6a2684aebb777a7b1e"),
        (
            {"levels": 16, "temperature": 2, "seed": 3},
            "319137b3722ca7e5dfc7085084bbb62d",
            "46bc5631fe972516841256a408a9e12d",
        ),
        (
            {"sparsifier": "random", "draws": 8},
            "d484d1a0adac5eb7756799dce0a5ab8d",
            "5d513f34de8d7fc64899b3596d673a00",
        ),
        ({"sparsifier": "random"}, "357e357980602acb258c94368bc9ffa2", "5d513f34de8d7fc64899b3596d673a00"),
        ({"sparsifier": "top_k", "k": 7}, "1e1c9162743e2a50b34d75d10a8a792f", "72ed23a7881fa6233e54686531ef5dba"),
        (
            {"sparsifier": "top_p", "p": 0.8, "max_k": 64},
            "9c8d96b4140f6b9001c3333190305e74",
            "ea9ab507d7b6712ff66f2ebbd5c4b07d",
        ),
    ],
    ids=str,
)
def test_recipes_and_size_questions_keep_the_ids_under_which_lakes_were_filled(
    target: dict[str, Any], recipe_id: str, question: str
) -> None:
    """Computed when every sparsifier was still named in recipe.py."""
    recipe = Recipe(
        teacher=dataclasses.replace(FILES, teacher_hash="a" * 32, name="t"),
        engine="transformers",
        dtype="float32",
        tokenizer="b" * 32,
        vocabulary=64,
        chat_template=None,
        chat_targets="assistant",
        bos="never",
        eos=True,
        window=32,
        overlap=8,
        target=TargetSettings.model_validate(target),
        format_version=1,
    )
    assert recipe.recipe_id == recipe_id
    assert probe_key(recipe, 12.0) == question


def test_the_facts_of_a_recipe_are_stored_and_not_hashed(recipe_of: Any) -> None:
    recipe = recipe_of(target={"sparsifier": "random"}).to_dict()
    facts = recipe.pop("facts")
    assert facts == FACTS_OF_OLD_RECIPES["random"]
    assert target_facts(recipe) == facts
    assert id_of(recipe) == recipe_of(target={"sparsifier": "random"}).recipe_id


@pytest.mark.parametrize("sparsifier", ["varopt", "random", "top_k", "top_p"])
def test_old_recipes_have_the_facts_that_their_sparsifiers_state(recipe_of: Any, sparsifier: str) -> None:
    assert recipe_of(target={"sparsifier": sparsifier}).to_dict()["facts"] == FACTS_OF_OLD_RECIPES[sparsifier]


def test_an_engine_that_gives_only_the_most_probable_ids_is_refused_before_it_is_loaded(
    recipe_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncating = EngineKind(gives="top_k", load="nowhere:load")
    monkeypatch.setattr("logitlake.pipeline.teachers.registry.engine_kind", lambda name: truncating)
    with pytest.raises(SettingsError, match="whole distribution"):
        recipe_of()


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
        "resolve_dtype('auto', 'cpu'); "
        "from logitlake.pipeline.settings.registry import SPARSIFIERS, CORPORA, ENGINES; "
        "[registry.load(name) for registry in (SPARSIFIERS, CORPORA, ENGINES) for name in registry.built_in]; "
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
