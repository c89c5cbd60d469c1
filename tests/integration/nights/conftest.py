"""A tiny teacher, a corpus that grows, and settings for nights that take seconds."""

import socket
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.config import Config

SENTENCES = ("the cat sat on the mat", "the dog sat on the log", "a small text for a small vocabulary")


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory, tiny_config: dict[str, object], tokenizer_dir: Path) -> Path:
    """A directory as save_pretrained writes it: a random Llama with the tiny tokenizer."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("teacher")
    LlamaForCausalLM(LlamaConfig(**tiny_config)).save_pretrained(directory)
    for file in tokenizer_dir.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


@pytest.fixture
def add(tmp_path: Path) -> Callable[[int, int], None]:
    """Appends documents number `begin` to `end` to the corpus."""

    def call(begin: int, end: int) -> None:
        with (tmp_path / "documents.jsonl").open("ab") as file:
            for number in range(begin, end):
                text = f"{SENTENCES[number % 3]} and {number} the {SENTENCES[(number + 1) % 3]}"
                file.write(orjson.dumps({"text": text}) + b"\n")

    return call


@pytest.fixture
def config(tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Config.model_validate(
        {
            "lake": {"path": str(tmp_path / "lake"), "held_out": {"share": 0.2}},
            "teacher": {"model": str(tiny_teacher), "device": "cpu", "dtype": "float32"},
            "corpora": [{"name": "test", "kind": "jsonl", "path": str(tmp_path / "documents.jsonl")}],
            "tokenization": {"window": 32, "overlap": 8},
            "capture": {"unit_tokens": 300, "batch_tokens": 256},
            "student": {"source": "teacher", "layers": 1},
            "redistill": {"checkpoint_steps": 1},
            # Steps enough for the trainer to report its progress; a rate that is bad if it is 100 times as high.
            "training": {
                "batch_sequences": 1,
                "precision": "fp32",
                "device": "cpu",
                "learning_rate": 0.03,
                "schedule": "constant",
                "warmup_share": 0.0,
            },
        }
    )


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
