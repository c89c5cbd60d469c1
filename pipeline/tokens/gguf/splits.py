"""How the tokenizers that a GGUF file names (`tokenizer.ggml.pre`) cut a text before BPE.

The normalizer and the cuts are those of the tokenizer.json that each name stands for. Files with a name that is not
here are refused. docs/teachers.md says which names were compared with expected ids.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The rule of files with one of `names`: `steps` makes the cuts, the byte alphabet included.

    `whole_words`: a word that is a token is taken as it is, without merges. `adds_bos` holds where the file does not
    say it.
    """

    names: tuple[str, ...]
    steps: Callable[[], list[PreTokenizer]]
    normalizer: Callable[[], Normalizer] | None = None
    whole_words: bool = False
    adds_bos: bool = False


def _bytes(*, words: bool) -> PreTokenizer:
    """The byte alphabet of GPT-2; with `words` also its cuts."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)


def _cut(pattern: str) -> PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def _one_pattern(pattern: str) -> Callable[[], list[PreTokenizer]]:
    return lambda: [_cut(pattern), _bytes(words=False)]


def _in_turn(*patterns: str, single_digits: bool) -> Callable[[], list[PreTokenizer]]:
    digits = [pre_tokenizers.Digits(individual_digits=True)] if single_digits else []
    return lambda: [*(_cut(pattern) for pattern in patterns), *digits, _bytes(words=False)]


def _class(hexadecimal_ranges: str) -> str:
    """A class of characters from ranges of code points."""
    pairs = [text.partition("-") for text in hexadecimal_ranges.split()]
    return "[" + "".join(f"\\x{{{first}}}-\\x{{{last or first}}}" for first, _, last in pairs) + "]"


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3 = "|".join([_CONTRACTIONS, _WORDS, r"\p{N}{1,3}", _SYMBOLS, _SPACES])
_QWEN2 = "|".join([_CONTRACTIONS, _WORDS, r"\p{N}", _SYMBOLS, _SPACES])
_QWEN35 = "|".join(
    [
        _CONTRACTIONS,
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        _SPACES,
    ]
)
# Words with capitals before small letters, one kind of them at least.
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_WORDS = [rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALL}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALL}*"]
_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = "|".join([*_CASED_WORDS, r"\p{N}", _PATHS, _SPACES])
_GPT4O = "|".join([*(f"{words}{_CONTRACTIONS}?" for words in _CASED_WORDS), r"\p{N}{1,3}", _PATHS, _SPACES])
# Chinese, Japanese and Korean: the first range is as wide as the models' own files have it.
_EAST_ASIAN = "4e00-9fa5 800-4e00 ac00-d7ff"
_DEEPSEEK_LETTERS = (
    "41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c "
    "38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b "
    "1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 "
    "1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 "
    "2115 2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b "
    "2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 "
    "fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df "
    "1e900-1e943 "
)
_DEEPSEEK_PUNCTUATION = "21-2f 3a-7e ff01-ff0f ff1a-ff5e 2018-201f 3000-3002"
_ASCII_PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_DEEPSEEK_V3 = "|".join(
    [
        rf"{_ASCII_PUNCTUATION}[A-Za-z]+",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        _SPACES,
    ]
)


def _single_digits() -> list[PreTokenizer]:
    return [pre_tokenizers.Digits(individual_digits=True), _bytes(words=True)]


def _falcon() -> list[PreTokenizer]:
    return [
        pre_tokenizers.Punctuation(behavior="contiguous"),
        _bytes(words=True),
        pre_tokenizers.Digits(individual_digits=False),
        _cut("[0-9][0-9][0-9]"),
    ]


_DEEPSEEK_LLM = _in_turn(
    r"[\r\n]",
    rf"\s?{_class(_DEEPSEEK_LETTERS)}+",
    rf"\s?{_class(_DEEPSEEK_PUNCTUATION)}+",
    r"\s+$",
    f"{_class(_EAST_ASIAN)}+",
    single_digits=True,
)
_DEEPSEEK_CODER = _in_turn(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", f"{_class(_EAST_ASIAN)}+", single_digits=True)
_DEEPSEEK_V3_STEPS = _in_turn(
    r"\p{N}{1,3}", f"{_class('4e00-9fa5 3040-309f 30a0-30ff')}+", _DEEPSEEK_V3, single_digits=False
)

_ALL = (
    Split(names=("gpt-2",), steps=lambda: [_bytes(words=True)]),
    Split(names=("mpt",), steps=lambda: [_bytes(words=True)], normalizer=normalizers.NFC),
    Split(names=("smollm", "starcoder", "refact"), steps=_single_digits),
    Split(names=("command-r",), steps=_single_digits, normalizer=normalizers.NFC),
    Split(names=("falcon",), steps=_falcon),
    Split(names=("deepseek-llm",), steps=_DEEPSEEK_LLM),
    Split(names=("deepseek-coder",), steps=_DEEPSEEK_CODER),
    Split(names=("deepseek-v3",), steps=_DEEPSEEK_V3_STEPS),
    Split(names=("llama3", "llama-v3", "llama-bpe"), steps=_one_pattern(_LLAMA3), whole_words=True, adds_bos=True),
    Split(names=("qwen2",), steps=_one_pattern(_QWEN2), normalizer=normalizers.NFC),
    Split(names=("deepseek-r1-qwen",), steps=_one_pattern(_QWEN2)),
    # Without NFC, which transformers has for this model: the expected ids of the file are those of the text as it is.
    Split(names=("qwen35",), steps=_one_pattern(_QWEN35)),
    Split(names=("tekken",), steps=_one_pattern(_TEKKEN), whole_words=True, adds_bos=True),
    Split(names=("gpt-4o", "llama4"), steps=_one_pattern(_GPT4O)),
)
# By the name in the file.
SPLITS = {name: split for split in _ALL for name in split.names}
