"""Flags reach their settings as the values they are."""

import os
from pathlib import Path

import pytest

from logitlake.flows.settings import settings
from logitlake.storage.errors import SettingsError

PATHS = ("plain", "llama \U0001f999", "a: b # c", "'quoted\"", "[1]", "null", os.fsdecode(b"not utf-8 \xff"))


@pytest.mark.parametrize("name", PATHS)
def test_a_path_given_as_a_flag_is_that_path(name: str) -> None:
    assert settings(None, None, {"lake.path": Path(name)}).lake.path == Path(name)


@pytest.mark.parametrize("text", ["'\U0001f999' = source", "1", "yes", "a: b", "# not a comment"])
def test_a_text_given_as_a_flag_is_that_text(text: str) -> None:
    assert settings(None, None, {"training.where": text}).training.where == text


def test_a_flag_wins_over_an_override_and_one_that_is_not_given_changes_nothing(tmp_path: Path) -> None:
    overrides = ("lake.path=from-set", "training.epochs=3")
    config = settings(None, overrides, {"lake.path": tmp_path, "training.epochs": None})
    assert (config.lake.path, config.training.epochs) == (tmp_path, 3)


def test_a_flag_of_an_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"lake\.pth"):
        settings(None, None, {"lake.pth": "x"})
