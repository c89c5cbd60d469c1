"""A small byte-level tokenizer in the shape that teachers come in: a directory of files."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from logitlake.pipeline.tokens.tokenizer import TextTokenizer

SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TRAINING_TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen jugs",
    "def main(): return 1",
]

DirectoryMaker = Callable[..., Path]


def train_backend() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TRAINING_TEXT * 4, trainer)
    return backend


@pytest.fixture(scope="session")
def trained_backend() -> str:
    return train_backend().to_str()


@pytest.fixture
def make_tokenizer_directory(tmp_path: Path, trained_backend: str) -> DirectoryMaker:
    """A function that writes a tokenizer directory; what it is given changes tokenizer_config.json."""

    def make(name: str = "tokenizer", *, template: str | None = TEMPLATE, backend: str = "", **config: Any) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "tokenizer.json").write_text(backend or trained_backend)
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        (directory / "tokenizer_config.json").write_text(json.dumps(special | config))
        if template is not None:
            (directory / "chat_template.jinja").write_text(template)
        return directory

    return make


@pytest.fixture
def tokenizer(make_tokenizer_directory: DirectoryMaker) -> TextTokenizer:
    return TextTokenizer.load(make_tokenizer_directory())


@pytest.fixture
def tiny_model(tiny_llama: Callable[..., Any]) -> Callable[..., Any]:
    """A tiny random Llama whose output layer has 320 rows, more than the 300 ids that tests use."""
    return partial(tiny_llama, vocab_size=320, initializer_range=0.3, tie_word_embeddings=False)
