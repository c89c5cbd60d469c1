"""Whether two tokenizers turn texts into the same ids, by the texts of their tokens and texts that often differ."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

_REPLACEMENT = "\ufffd"
_TOGETHER = 32
_MAX_GROUPS = 1500
_SHOWN_IDS = 12
# Spaces at the borders and in runs, lines, digits, contractions, capitals, accents as one character and as two, scripts
# without spaces, emoji, control characters, and what normalizers change.
TEXTS = (
    *(
        "",
        " ",
        "  ",
        "   ",
        "\t",
        "\n",
        "\r\n",
        "\n\n\n",
        " \n ",
        "\u00a0",
        "\u3000x",
        "a\u200bb",
        "\ufeffa",
        "\x00\x01\x7f",
    ),
    *("a", " a", "  a", "   a  ", "a b  c   d", "\n a", "a\n", "a \n\n  b\t\tc ", "\ta", "a\r\nb"),
    *("1", "12", "123", "1234567890", "3.14159", "1,000,000", "2026-11-30T15:50", "x1y22z333", "Ⅷ ½ ² ٣ 一二三"),
    *(
        "I'm you're he'll WE'VE it's don'T o'clock 'tis",
        "Hello, World! (HELLO) [world] {a} <b> #c @d &e %f",
        "!!!???...---___",
    ),
    *("camelCaseWord snake_case_word SCREAMING kebab-case", "if x == 1:\n    return [y**2 for y in z]  # note\n"),
    *("https://example.org/a?b=c&d=%20#e", "/usr/local/lib/python3", "C:\\Users\\x", "a=b+c-d*e/f;", "$12.50 £3 €4"),
    *(
        "é e\u0301 ñ n\u0303 Å A\u030a ﬁ ﬀ ① Ａｂｃ １２３",
        "straße STRASSE İstanbul ıI ŒUVRE",
        "Привет, мир",
        "γειά σου Κόσμε",
    ),
    *(
        "我想在苹果工作1314151天～",
        "こんにちは、世界。カタカナ",
        "안녕하세요 세계",
        "สวัสดีชาวโลก",
        "مرحبا بالعالم",
        "नमस्ते दुनिया",
        "Việt Nam",
    ),
    *(
        "😀😁 👩‍👩‍👧‍👦 🇩🇪 ✅ ☃\ufe0f",
        "a\u0300\u0301\u0302b",
        "\U00010400\U0001d400",
        "``` ''' \"\"\" “quotes” ‘single’ … – —",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A text that two tokenizers turn into different ids."""

    text: str
    first: tuple[int, ...]
    second: tuple[int, ...]

    def words(self, first: str, second: str) -> str:
        """The text and both lists of ids, from the first id that differs; the arguments name the tokenizers."""
        start = next((i for i, (a, b) in enumerate(zip(self.first, self.second, strict=False)) if a != b), None)
        start = min(len(self.first), len(self.second)) if start is None else start
        place = f" from token {start} on" if start else ""
        ids = (list(ids[start : start + _SHOWN_IDS]) for ids in (self.first, self.second))
        return f"the text {self.text[:80]!r} has{place} the ids {next(ids)} by {first} and {next(ids)} by {second}"


def first_difference(first: Tokenizer, second: Tokenizer, *, second_may_add: bool = False) -> Difference | None:
    """The first text with different ids; None if all compared texts have the same.

    Tokenizers of one definition are the same. Of others the texts of their tokens are compared, among others, up to
    48,000 tokens evenly spread over the vocabulary; and every added token inside a text. With `second_may_add`,
    texts with a special token that only the second has are left out. Costs about 2 s.
    """
    if same_definition(first, second):
        return None
    added = [_added(tokenizer) for tokenizer in (first, second)]
    left_out = _added(second, special=True) - added[0] if second_may_add else set()
    names = (added[0] | added[1]) - left_out
    around = [
        text for name in sorted(names) for text in (name, f"a{name}b", f" {name} ", f"{name}\n{name}", f"a {name}  b")
    ]
    texts = [text for text in (*TEXTS, *around) if not any(name in text for name in left_out)]
    if (found := _compare(first, second, texts)) is not None:
        return found
    for tokenizer in (first, second):
        pieces = [text for text in _token_texts(tokenizer) if not any(name in text for name in left_out)]
        for glue in ("", " "):
            groups = [pieces[i : i + _TOGETHER] for i in range(0, len(pieces), _TOGETHER)]
            groups = groups[:: -(-len(groups) // _MAX_GROUPS) or 1]
            joined = [glue.join(group) for group in groups]
            if (found := _compare(first, second, joined)) is not None:
                return _compare(first, second, groups[joined.index(found.text)]) or found
    return None


def same_definition(first: Tokenizer, second: Tokenizer) -> bool:
    """Whether two tokenizers are written alike, but for what decides no id: decoder, post-processor, padding."""
    parts = []
    for tokenizer in (first, second):
        content = json.loads(tokenizer.to_str())
        parts.append({name: content.get(name) for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")})
    return parts[0] == parts[1]


def _compare(first: Tokenizer, second: Tokenizer, texts: Sequence[str]) -> Difference | None:
    encoded = (tokenizer.encode_batch_fast(list(texts), add_special_tokens=False) for tokenizer in (first, second))
    for text, one, other in zip(texts, *encoded, strict=True):
        if one.ids != other.ids:
            return Difference(text=text, first=tuple(one.ids), second=tuple(other.ids))
    return None


def _added(tokenizer: Tokenizer, *, special: bool = False) -> set[str]:
    """The texts of added tokens: all, or only those that are special."""
    tokens = tokenizer.get_added_tokens_decoder().values()
    return {token.content for token in tokens if token.special or not special}


def _token_texts(tokenizer: Tokenizer) -> Iterable[str]:
    """The texts of the tokens that are whole characters, without those of added tokens."""
    added = tokenizer.get_added_tokens_decoder()
    ids = [[number] for number in sorted(tokenizer.get_vocab(with_added_tokens=False).values()) if number not in added]
    return [
        text for text in tokenizer.decode_batch(ids, skip_special_tokens=False) if text and _REPLACEMENT not in text
    ]
