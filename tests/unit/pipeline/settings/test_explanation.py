"""What is said of wrong settings: in our own words, with the right source, and with the nearest right word."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from logitlake.pipeline.settings.loading import load_config
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import inner_settings
from logitlake.storage.errors import SettingsError

# What a library says of its own types: nobody who writes YAML knows them.
NOT_OURS = ("Input should", "Value error", "Field required", "valid dictionary", "instance of", "pydantic", "tuple")


def refusal(path: Path | None, *overrides: str, **flags: object) -> str:
    with pytest.raises(SettingsError) as refused:
        load_config(path, overrides, {name.replace("__", "."): value for name, value in flags.items()})
    return str(refused.value)


@pytest.mark.parametrize(
    "value", [{"no": 1}, [[]], "\x00", 1e300, True, None, -1, "2024-01-01", "", [1, "x"]], ids=repr
)
def test_no_word_of_the_library_reaches_the_user(value: Any) -> None:
    """Every setting of every section gets a value of another kind."""
    for name, field in Config.model_fields.items():
        model = inner_settings(field.annotation)
        places = [name] if inspect.isabstract(model) else [name, *(f"{name}.{key}" for key in model.model_fields)]
        for place in places:
            try:
                load_config(None, (), {place: value})
            except SettingsError as error:
                assert not [word for word in NOT_OURS if word in str(error)], (place, str(error))


def test_the_source_of_a_wrong_value_is_the_file_or_what_came_after_it(tmp_path: Path) -> None:
    file = tmp_path / "logitlake.yaml"
    file.write_text("capture: {max_tokens: 0}\ncorpora: [{name: a, kind: jsonl, path: x}]\n")
    message = refusal(file, "training.epochs=x", "corpora.a.min_characters=0", evaluation__max_tokens=0)
    heading, *lines = message.splitlines()
    assert heading == f"settings in {file}:"
    sources = {line.split(":")[0].strip(): line.rpartition("(set by ")[2].rstrip(")") for line in lines}
    assert sources["training.epochs"] == sources["corpora.0.min_characters"] == "--set"
    assert sources["evaluation.max_tokens"] == "an option of the command"
    assert "(set by" not in next(line for line in lines if "capture.max_tokens" in line)


def test_a_setting_that_may_be_of_two_kinds_is_told_once_by_its_name() -> None:
    message = refusal(None, "student={source: teacher, layers: 1, lora: {target_modules: 3}}")
    assert message.count("student.lora.target_modules: expected") == len(message.splitlines()) - 1 == 1


def test_a_file_that_is_right_is_not_blamed(tmp_path: Path) -> None:
    file = tmp_path / "logitlake.yaml"
    file.write_text("student: {source: teacher, layers: 2}\n")
    assert str(file) not in refusal(file, "student.model=x")
    assert str(file) not in refusal(file, "training.epochs=0")


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("corpora=[{name: a, kind: jsnl, path: x}]", "jsonl"),
        ("teacher={model: x, engine: transformer}", "transformers"),
        ("training.loss=divergance", "divergence"),
        ("training.schedule=cosin", "cosine"),
        ("training.epoch=2", "epochs"),
    ],
)
def test_a_misspelt_word_is_told_with_the_nearest_right_one(override: str, meant: str) -> None:
    assert f"did you mean {meant}?" in refusal(None, override)


@pytest.mark.parametrize("section", ["schedule", "teacher", "lake"])
def test_text_in_place_of_a_section_is_not_shown(section: str) -> None:
    """It may be an address with a secret."""
    message = refusal(None, **{section: "https://hooks.example/SECRET"})
    assert "expected a section with names and values, found no section" in message
    assert "SECRET" not in message


def test_settings_that_do_not_fit_together_are_told_without_the_whole_section(tmp_path: Path) -> None:
    file = tmp_path / "logitlake.yaml"
    file.write_text("tokenization: {window: 8, overlap: 9}\n")
    message = refusal(file)
    assert "overlap must be at most half the window (4), found 9" in message
    assert "{" not in message
