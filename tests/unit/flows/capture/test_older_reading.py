"""A lake goes on where an older logitlake, which did not ask transformers, read the same ids from the files."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.capture.other_tokenizer import other_tokenizer
from logitlake.flows.capture.preparation import prepare
from logitlake.flows.settings import location_of
from logitlake.pipeline.model_files.tokenizer import load_tokenizer
from logitlake.pipeline.settings.models import Config, StudentSettings
from logitlake.pipeline.students.identity import Parent
from logitlake.pipeline.students.tokenizer import find_tokenizer
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.connection.object_store import write_note
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.session import query
from logitlake.storage.writing.recipes import register_recipe
from logitlake.storage.writing.teacher_configs import note_config
from tests.tiny_lake import capture_all

BEGINS_WITH_BOS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"]}},
}


@pytest.fixture
def own_teacher(raw_config: dict[str, Any], tiny_teacher: Path, tmp_path: Path) -> Path:
    """A teacher whose files a test may change."""
    directory = Path(shutil.copytree(tiny_teacher, tmp_path / "own teacher"))
    raw_config["teacher"]["model"] = str(directory)
    return directory


@contextmanager
def older_logitlake(*, with_config: bool = True) -> Iterator[None]:
    """It read `tokenizer.json` and its settings alone; before that it hashed no config either."""
    with pytest.MonkeyPatch.context() as older:
        older.setattr(
            "logitlake.flows.capture.preparation.load_tokenizer",
            lambda directory, *, chat_template=None, **_: TextTokenizer.load(directory, chat_template=chat_template),
        )
        if not with_config:
            older.setattr("logitlake.pipeline.model_files.files.hash_config", lambda *_, **__: None)
        yield


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in {**content, **changes}.items() if value is not None}))


def names_of_its_class(teacher: Path) -> None:
    """As GPT-2 lies on the hub: its settings name no token, the class in transformers does."""
    file = teacher / "tokenizer.json"
    file.write_text(file.read_text().replace("<|end|>", "<|endoftext|>"))
    (teacher / "tokenizer_config.json").write_text('{"model_max_length": 128, "tokenizer_class": "GPT2Tokenizer"}')


def bos_by_setting(teacher: Path) -> None:
    edit(teacher / "tokenizer_config.json", add_bos_token=True)


def bos_by_post_processor(teacher: Path) -> None:
    edit(teacher / "tokenizer_config.json", add_bos_token=False)
    edit(teacher / "tokenizer.json", post_processor=BEGINS_WITH_BOS)


def register(config: Config) -> str:
    """The recipe of the settings, in a lake."""
    prepared = prepare(config)
    with Lake.create(location_of(config), held_out_salt="s", held_out_share=0.2) as lake:
        return register_recipe(lake, prepared.recipe.to_dict())


def note(config: Config) -> str:
    """The recipe of the settings as a file beside the data, as a lake has it before its first row."""
    recipe = prepare(config).recipe
    write_note(location_of(config), f"recipes/{recipe.recipe_id}.json", recipe.to_dict())
    return recipe.recipe_id


def warning_of(config: Config) -> str:
    with Lake.open(location_of(config)) as lake:
        return other_tokenizer(prepare(config), lake)


@pytest.mark.slow
def test_an_older_lake_of_the_same_ids_goes_on_and_computes_nothing_twice(
    own_teacher: Path, raw_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    names_of_its_class(own_teacher)
    raw_config["tokenization"] |= {"eos": False}
    corpus = own_teacher.parent / "own.jsonl"
    shutil.copyfile(raw_config["corpora"][0]["path"], corpus)
    raw_config["corpora"][0]["path"] = str(corpus)
    config = Config.model_validate(raw_config)
    with older_logitlake():
        first = capture_all(config)
    assert first.n_documents
    assert load_tokenizer(own_teacher).fingerprint != TextTokenizer.load(own_teacher).fingerprint
    with caplog.at_level(logging.WARNING):
        again = capture_all(config)
    assert (again.recipe_id, again.n_documents, again.n_tokens) == (first.recipe_id, 0, 0)
    with corpus.open("a") as file:
        file.write('{"text": "the log and the mat"}\n')
    assert capture_all(config).n_documents == 1
    assert "tokenizer" not in caplog.text
    joined = "SELECT count(*) AS n FROM vocabulary SEMI JOIN recipes USING (tokenizer_id)"
    vocabulary = query(location_of(config), joined).to_pylist()
    assert vocabulary == query(location_of(config), "SELECT count(*) AS n FROM vocabulary").to_pylist()


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    ("change", "settings", "goes_on"),
    [
        (names_of_its_class, {"eos": False}, True),
        (bos_by_setting, {"bos": "never"}, True),
        (bos_by_setting, {"bos": "always"}, True),
        (bos_by_setting, {}, False),
        (bos_by_post_processor, {"bos": "never"}, True),
        (bos_by_post_processor, {}, False),
    ],
)
def test_a_recipe_goes_on_if_and_only_if_its_rows_would_have_the_same_ids(
    own_teacher: Path,
    raw_config: dict[str, Any],
    change: Any,
    settings: dict[str, Any],
    goes_on: bool,
    with_config: bool,
) -> None:
    change(own_teacher)
    raw_config["tokenization"] |= settings
    config = Config.model_validate(raw_config)
    with older_logitlake(with_config=with_config):
        recipe_id = note(config)
    assert (prepare(config).recipe.recipe_id == recipe_id) == goes_on


def test_a_capture_that_begins_anew_says_why_and_that_the_older_rows_can_be_trained_on(
    own_teacher: Path, raw_config: dict[str, Any]
) -> None:
    bos_by_setting(own_teacher)
    config = Config.model_validate(raw_config)
    with older_logitlake(with_config=False):
        recipe_id = register(config)
    warning = warning_of(config)
    assert recipe_id in warning and "BOS texts, now never" in warning
    assert "The files are the same: an older logitlake" in warning
    assert "Students can still be trained on the older rows" in warning


def test_a_lake_that_has_the_recipe_of_today_too_goes_on_with_that(
    own_teacher: Path, raw_config: dict[str, Any]
) -> None:
    names_of_its_class(own_teacher)
    raw_config["tokenization"] |= {"eos": False}
    config = Config.model_validate(raw_config)
    today = note(config)
    with older_logitlake():
        assert note(config) != today
    assert prepare(config).recipe.recipe_id == today


def test_a_template_that_names_a_token_that_differs_makes_other_rows(
    own_teacher: Path, raw_config: dict[str, Any]
) -> None:
    names_of_its_class(own_teacher)
    raw_config["tokenization"] |= {"eos": False}
    config = Config.model_validate(raw_config)
    template = own_teacher / "chat_template.jinja"
    for text, goes_on in (("{{ messages[0].content }}", True), ("{{ bos_token }}{{ messages[0].content }}", False)):
        template.write_text(text)
        with older_logitlake():
            recipe_id = note(config)
        assert (prepare(config).recipe.recipe_id == recipe_id) == goes_on


@pytest.mark.parametrize("change", [names_of_its_class, bos_by_setting, bos_by_post_processor])
def test_older_rows_can_be_trained_on(
    own_teacher: Path, raw_config: dict[str, Any], change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    change(own_teacher)
    raw_config["tokenization"] |= {"eos": False}
    config = Config.model_validate(raw_config)
    with older_logitlake():
        recipe = prepare(config).recipe.to_dict()
    files = prepare(config).files
    student = Path(shutil.copytree(own_teacher, own_teacher.parent / "student"))
    (student / "chat_template.jinja").write_text("{{ messages }}")
    for source, directory in (("teacher", own_teacher), ("checkpoint", student)):
        settings = StudentSettings.model_validate(
            {"source": source, "layers": 1} if source == "teacher" else {"source": source, "model": str(directory)}
        )
        parent = Parent(parent_id="p", content_id="p", directory=directory, tokenizer_directory=directory)
        with caplog.at_level(logging.WARNING):
            assert find_tokenizer(settings, parent, files, recipe) == directory
        assert ("as an older logitlake read" in caplog.text) == (change is not names_of_its_class)


@pytest.mark.slow
def test_a_recipe_without_a_config_is_found_beside_another_tokenizer(
    own_teacher: Path, raw_config: dict[str, Any]
) -> None:
    config = Config.model_validate(raw_config)
    with older_logitlake(with_config=False):
        recipe_id = register(config)
    assert warning_of(config) == ""
    edit(own_teacher / "tokenizer_config.json", eos_token="<|begin|>")
    assert recipe_id in warning_of(config)
    note_config(location_of(config), recipe_id, "another")
    assert warning_of(config) == "", "its teacher is another one"


@pytest.mark.parametrize("setting", [{"bos": "always"}, pytest.param({"chat_targets": "all"}, marks=pytest.mark.slow)])
def test_a_change_of_a_setting_is_no_other_tokenizer_and_beside_one_it_is_named(
    own_teacher: Path, raw_config: dict[str, Any], setting: dict[str, Any]
) -> None:
    register(Config.model_validate(raw_config))
    raw_config["tokenization"] |= setting
    config = Config.model_validate(raw_config)
    assert warning_of(config) == ""
    edit(own_teacher / "tokenizer_config.json", eos_token="<|begin|>")
    named = "BOS never, now always" if "bos" in setting else "tokenization.chat_targets assistant, now all"
    assert f"another tokenizer ({named})" in warning_of(config)
