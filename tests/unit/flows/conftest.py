"""A tiny teacher on disk, a corpus for it, and a lake captured from them without Prefect."""

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner, Result

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.cli.app import app
from logitlake.flows.reports import CaptureReport
from logitlake.pipeline.settings.models import Config

SENTENCES = ("the cat sat on the mat", "the dog sat on the log", "a small text for a small vocabulary")


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory, tiny_config: dict[str, object], tokenizer_dir: Path) -> Path:
    """A directory as save_pretrained writes it: a random Llama with the tiny tokenizer."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("teacher")
    LlamaForCausalLM(LlamaConfig(**tiny_config)).save_pretrained(directory)
    for file in tokenizer_dir.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty documents, one of them twice, and a line that is no JSON."""
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    texts = [f"{SENTENCES[number % 3]} and {number} the {SENTENCES[(number + 1) % 3]}" for number in range(30)]
    lines = [orjson.dumps({"text": text}) for text in [*texts, texts[0]]]
    path.write_bytes(b"\n".join([*lines[:5], b"{no json", *lines[5:]]) + b"\n")
    return path


def settings_in(directory: Path, tiny_teacher: Path, corpus_file: Path) -> dict[str, Any]:
    """The settings of a small lake in a directory, as YAML would give them."""
    return {
        "lake": {"path": str(directory / "lake"), "held_out": {"share": 0.2}},
        "teacher": {"model": str(tiny_teacher), "device": "cpu", "dtype": "float32"},
        "corpora": [{"name": "test", "kind": "jsonl", "path": str(corpus_file)}],
        "tokenization": {"window": 32, "overlap": 8},
        "capture": {"unit_tokens": 300, "batch_tokens": 256},
        "student": {"source": "teacher", "layers": 1},
        "training": {"output": str(directory / "student"), "batch_sequences": 4, "precision": "fp32", "device": "cpu"},
    }


def captured_by(config: Config) -> CaptureReport:
    """What the teacher flow does, without Prefect."""
    with CaptureRun(config) as run:
        for number in run.units():
            run.commit(run.compute(number))
    return run.report


@pytest.fixture
def raw_config(tmp_path: Path, tiny_teacher: Path, corpus_file: Path) -> dict[str, Any]:
    return settings_in(tmp_path, tiny_teacher, corpus_file)


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
    return captured_by


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
    raw = settings_in(directory, tiny_teacher, corpus_file)
    path = directory / "logitlake.yaml"
    path.write_bytes(orjson.dumps(raw))
    config = Config.model_validate(raw)
    return FilledLake(config, path, captured_by(config))


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
