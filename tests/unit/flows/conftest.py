"""A corpus for the tiny teacher, and a lake captured from it without Prefect."""

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from logitlake.flows.cli.app import app
from logitlake.flows.reports import CaptureReport
from logitlake.pipeline.settings.models import Config
from tests.tiny_lake import capture_all, text_of, tiny_settings


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty documents, one of them twice, and a line that is no JSON."""
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    texts = [text_of(number) for number in range(30)]
    lines = [orjson.dumps({"text": text}) for text in [*texts, texts[0]]]
    path.write_bytes(b"\n".join([*lines[:5], b"{no json", *lines[5:]]) + b"\n")
    return path


@pytest.fixture
def raw_config(tmp_path: Path, tiny_teacher: Path, corpus_file: Path) -> dict[str, Any]:
    return tiny_settings(tmp_path, tiny_teacher, corpus_file, output=str(tmp_path / "student"))


@pytest.fixture
def config(raw_config: dict[str, Any]) -> Config:
    """Settings whose lake does not exist yet."""
    return Config.model_validate(raw_config)


@pytest.fixture
def config_file(raw_config: dict[str, Any], tmp_path: Path) -> Path:
    """The same settings as a file: JSON is YAML."""
    path = tmp_path / "logitlake.yaml"
    path.write_bytes(orjson.dumps(raw_config))
    return path


@pytest.fixture
def run_capture() -> Callable[[Config], CaptureReport]:
    return capture_all


@dataclass(frozen=True)
class FilledLake:
    """A lake that tests only read or copy: its settings, the file they are in, and what filled it."""

    config: Config
    config_file: Path
    report: CaptureReport


@pytest.fixture(scope="session")
def filled(
    tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, corpus_file: Path, _own_cache: None
) -> FilledLake:
    directory = tmp_path_factory.mktemp("filled")
    raw = tiny_settings(directory, tiny_teacher, corpus_file, output=str(directory / "student"))
    path = directory / "logitlake.yaml"
    path.write_bytes(orjson.dumps(raw))
    config = Config.model_validate(raw)
    return FilledLake(config, path, capture_all(config))


@pytest.fixture
def captured(config: Config, filled: FilledLake) -> CaptureReport:
    """The lake of `config`, filled: a copy, since a capture takes a second."""
    shutil.copytree(filled.config.lake.path, config.lake.path)
    return copy.deepcopy(filled.report)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Calls the command line in an empty directory of its own; `cli("show", "runs")` gives a click Result."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    yield call


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fingerprints and conversions of tests stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOGITLAKE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
