import json
from collections.abc import Callable

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors

from logitlake.pipeline.tokens.same_ids import first_difference, same_definition

CHANGES: dict[str, Callable[[Tokenizer], object]] = {
    "prefix space": lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "digits": lambda t: setattr(
        t, "pre_tokenizer", pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    ),
    "NFC": lambda t: setattr(t, "normalizer", normalizers.NFC()),
    "strip": lambda t: setattr(t, "normalizer", normalizers.Strip()),
    "lower": lambda t: setattr(t, "normalizer", normalizers.Lowercase()),
    "added token": lambda t: t.add_tokens(["fox"]),
    "token that takes spaces": lambda t: t.add_special_tokens([AddedToken("<|end|>", rstrip=True, special=True)]),
}


@pytest.fixture
def made(trained_backend: str) -> Callable[[], Tokenizer]:
    """The trained tokenizer with a merge of digits, so that cutting between them changes ids."""

    def make() -> Tokenizer:
        return Tokenizer.from_str(
            trained_backend.replace('"merges":[', '"merges":[["1","2"],', 1).replace(
                '"vocab":{', '"vocab":{"12":999,', 1
            )
        )

    return make


@pytest.mark.parametrize("name", CHANGES)
def test_another_rule_is_found_and_the_difference_is_real(made: Callable[[], Tokenizer], name: str) -> None:
    first, second = made(), made()
    CHANGES[name](second)
    for one, other in ((first, second), (second, first)):
        found = first_difference(one, other)
        assert found is not None
        ids = [tuple(t.encode(found.text, add_special_tokens=False).ids) for t in (one, other)]
        assert [found.first, found.second] == ids
        assert ids[0] != ids[1]
        assert "by A" in found.words("A", "B")


def test_what_decides_no_id_is_no_difference(made: Callable[[], Tokenizer]) -> None:
    first, second = made(), made()
    second.decoder = decoders.Fuse()
    second.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    second.enable_padding(length=9)
    assert same_definition(first, second)
    assert first_difference(first, second) is None


def test_the_same_function_in_another_form_is_the_same(made: Callable[[], Tokenizer]) -> None:
    first, second = made(), made()
    second.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(False, trim_offsets=False)])
    assert not same_definition(first, second)
    assert first_difference(first, second) is None


def test_a_token_that_only_the_second_has_may_be_left_out(made: Callable[[], Tokenizer]) -> None:
    first, second = made(), made()
    second.add_special_tokens(["<|pad|>"])
    assert first_difference(first, second) is not None
    assert first_difference(first, second, second_may_add=True) is None
    assert first_difference(second, first, second_may_add=True) is not None, "the first may not"
    second.add_tokens(["fox"])
    assert first_difference(first, second, second_may_add=True) is not None, "a word of texts is no padding token"


def test_two_tokens_that_changed_places_are_found_among_all(
    made: Callable[[], Tokenizer], trained_backend: str
) -> None:
    content = json.loads(trained_backend)
    vocabulary = content["model"]["vocab"]
    vocabulary["Ġlazy"], vocabulary["Ġdog"] = vocabulary["Ġdog"], vocabulary["Ġlazy"]
    found = first_difference(Tokenizer.from_str(trained_backend), Tokenizer.from_str(json.dumps(content)))
    assert found is not None
    assert found.text in (" lazy", " dog")
