"""Text from tokens: characters that tokens split come out whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitlake.pipeline.tokens.token_text import decoded
from logitlake.pipeline.tokens.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """A tokenizer with the 256 bytes, some merges of whole characters and some that end within one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # "Ã©" is how the two bytes of é are written, "ãģ" two bytes of three, "Ġð" one of four.
    merges = [("Ã", "©"), ("f", "Ã©"), ("ã", "ģ"), ("Ġ", "ð"), ("Ã", "ĥ")]
    vocabulary = {piece: number for number, piece in enumerate([*letters, *("".join(pair) for pair in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    directory = tmp_path_factory.mktemp("byte-level")
    backend.save(str(directory / "tokenizer.json"))
    return TextTokenizer.load(directory)


def through_tokens(tokenizer: TextTokenizer, text: str) -> list[str]:
    texts = tokenizer.token_texts()
    return decoded([texts[token_id] for token_id in tokenizer.encode_texts([text])[0]])


@pytest.mark.parametrize(
    "text", ["plain", "fée café", "あいう", "a 🙂b 🙃", "Ã alone and Ã twice", "naïve Ünïcödé", "\x1b[31m\r\n\t", ""]
)
def test_the_text_of_the_tokens_is_the_text_of_the_document(byte_level: TextTokenizer, text: str) -> None:
    assert "".join(through_tokens(byte_level, text)) == text


@given(st.text(alphabet=st.sampled_from("abfé あいう🙂ÃÜ.\n\x1b\u202e"), max_size=30))
def test_so_it_is_for_any_mixture(byte_level: TextTokenizer, text: str) -> None:
    assert "".join(through_tokens(byte_level, text)) == text


def test_each_token_has_its_share_and_a_split_character_stands_at_its_last_part(byte_level: TextTokenizer) -> None:
    assert through_tokens(byte_level, "a🙂b") == ["a", "", "", "", "🙂", "b"]


def test_byte_pieces_of_other_tokenizers_are_put_together_too() -> None:
    assert decoded(["a", "<0xE2>", "<0x82>", "<0xAC>", " b"]) == ["a", "", "", "€", " b"]


def test_a_character_that_was_cut_off_is_shown_as_its_pieces() -> None:
    assert decoded(["x", "ð", "Ł"]) == ["x", "ð", "Ł"]


def test_letters_that_are_also_how_bytes_are_written_stay_letters() -> None:
    assert decoded(["é", "t", "é", " ", "ï", "ve"]) == ["é", "t", "é", " ", "ï", "ve"]
