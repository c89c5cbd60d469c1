"""The section `teacher.server`: no secret gets in, and none that is put in the wrong place is shown."""

from pathlib import Path

import pytest
import yaml

from logitlake.pipeline.settings.loading import load_config
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import SettingsError
from logitlake.storage.redaction import HIDDEN, without_secrets

PLANTED = "planted-secret-of-the-server"


def load(path: Path, **server: object) -> Config:
    teacher = {"model": "x", "engine": "server", "server": {"url": "http://127.0.0.1:8000/v1", **server}}
    path.write_text(yaml.safe_dump({"teacher": teacher}))
    return load_config(path)


def test_the_engine_needs_an_address(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump({"teacher": {"model": "x", "engine": "server"}}))
    with pytest.raises(SettingsError, match=r"set teacher.server.url"):
        load_config(path)


@pytest.mark.parametrize(
    "url",
    [f"http://user:{PLANTED}@host/v1", f"http://host/v1?api-key={PLANTED}", f"http://host/v1#{PLANTED}", PLANTED],
)
def test_an_address_with_a_secret_is_refused_and_not_shown(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match=r"teacher.server.url") as caught:
        load(tmp_path / "settings.yaml", url=url)
    assert PLANTED not in str(caught.value)


@pytest.mark.parametrize("key", [f"sk-{PLANTED}", PLANTED, "hf_plantedtoken"])
def test_a_key_in_place_of_the_name_of_its_variable_is_refused_and_not_shown(tmp_path: Path, key: str) -> None:
    with pytest.raises(SettingsError, match=r"teacher.server.api_key_env") as caught:
        load(tmp_path / "settings.yaml", api_key_env=key)
    assert key not in str(caught.value)


def test_the_value_of_the_named_variable_is_hidden_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_OF_THIS_TEST", PLANTED)
    assert PLANTED in without_secrets(f"a {PLANTED}")
    config = load(tmp_path / "settings.yaml", api_key_env="KEY_OF_THIS_TEST")
    assert without_secrets(f"a {PLANTED}") == f"a {HIDDEN}"
    assert PLANTED not in config.model_dump_json()


def test_a_slash_at_the_end_of_the_address_changes_nothing(tmp_path: Path) -> None:
    config = load(tmp_path / "settings.yaml", url="https://host/v1/")
    assert config.teacher is not None and config.teacher.server is not None
    assert config.teacher.server.url == "https://host/v1"
