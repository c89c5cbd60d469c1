"""A server in this process, and the settings of a teacher behind it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from tests.bigram_server import BigramServer


@pytest.fixture
def bigram(tokenizer_dir: Path) -> Iterator[BigramServer]:
    """Serves the tiny tokenizer's ids."""
    tokenizer = TextTokenizer.load(tokenizer_dir)
    size = tokenizer.vocab_size
    logits_VV = 2.0 * np.random.default_rng(0).standard_normal((size, size))
    with BigramServer(logits_VV, tokenizer.backend).running() as server:
        yield server


Settings = Callable[..., TeacherSettings]


@pytest.fixture
def settings(bigram: BigramServer, tokenizer_dir: Path) -> Settings:
    """Settings for the server; keywords change the section `teacher.server`."""

    def make(**changes: Any) -> TeacherSettings:
        server = {"url": bigram.url, "model": "bigram", "concurrency": 4, "max_retries": 3, **changes}
        return TeacherSettings.model_validate({"model": str(tokenizer_dir), "engine": "server", "server": server})

    return make
