"""The tokenizer of the server against the local one."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.server.same_tokenizer import compare_tokenizers
from logitlake.pipeline.teachers.server.transport import Transport
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError
from tests.bigram_server import BigramServer

WITHOUT_TOKENIZE = ("models", "usage")


@pytest.fixture
def transport(settings: Callable[..., TeacherSettings]) -> Iterator[Transport]:
    server = settings().server
    assert server is not None
    with closing(Transport(server, key=None)) as transport:
        yield transport


@pytest.fixture
def tokenizer(tokenizer_dir: Path) -> TextTokenizer:
    return TextTokenizer.load(tokenizer_dir)


def other_tokenizer() -> Tokenizer:
    other = Tokenizer(models.BPE({chr(97 + i): i for i in range(26)}, [], unk_token="a"))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    return other


@pytest.mark.parametrize(
    ("tells", "words"),
    [(("models", "tokenize", "usage"), "ids of 58 texts"), (WITHOUT_TOKENIZE, "counts of 5 texts")],
)
def test_the_same_tokenizer_passes_and_the_run_records_how_it_was_compared(
    bigram: BigramServer, transport: Transport, tokenizer: TextTokenizer, tells: tuple[str, ...], words: str
) -> None:
    bigram.tells = tells
    assert compare_tokenizers(transport, "bigram", tokenizer) == words


def test_another_tokenizer_is_refused_with_the_first_text_that_differs(
    bigram: BigramServer, transport: Transport, tokenizer: TextTokenizer
) -> None:
    bigram.tokenizer = other_tokenizer()
    with pytest.raises(MismatchError, match=r"the text '.*' has .*ids \[.*\] by the server and \[.*\] by the local"):
        compare_tokenizers(transport, "bigram", tokenizer)


def test_another_number_of_tokens_is_refused_where_the_server_tells_no_ids(
    bigram: BigramServer, transport: Transport, tokenizer: TextTokenizer
) -> None:
    bigram.tells, bigram.tokenizer = WITHOUT_TOKENIZE, other_tokenizer()
    bigram.form = "none"
    with pytest.raises(MismatchError, match="tokens on the server"):
        compare_tokenizers(transport, "bigram", tokenizer)


def test_a_server_that_offers_no_way_is_a_warning(
    bigram: BigramServer, transport: Transport, tokenizer: TextTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    bigram.tells = ("models",)
    with caplog.at_level(logging.WARNING):
        assert compare_tokenizers(transport, "bigram", tokenizer) == "not compared"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
