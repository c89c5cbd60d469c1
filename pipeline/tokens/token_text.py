"""The text of a document from the texts of its tokens, where tokens may be parts of characters.

The vocabulary of a lake keeps a token that is no whole character as the tokenizer's own piece: in the alphabet in
which byte-level tokenizers write bytes (U+0120 for a space, `Ã` for the byte C3), or as `<0xC3>`. Such pieces are put
together again here. A piece may look like text (`é` is also how the byte E9 is written), so a token is taken for bytes
only where it and its neighbours then make whole characters, which parts of a document's text always do.
"""

import re
from collections.abc import Sequence

# A character has four bytes at most, and a token may end one and begin the next.
_LONGEST_RUN = 8
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def decoded(tokens: Sequence[str]) -> list[str]:
    """What each token adds to the text: the parts of a character add nothing but for the last, which adds it whole.

    Joined, the result is the text. Cost: linear.
    """
    texts: list[str] = []
    while len(texts) < len(tokens):
        texts += _run(tokens, len(texts)) or [tokens[len(texts)]]
    return texts


def _run(tokens: Sequence[str], begin: int) -> list[str]:
    """The shortest run of partial tokens from `begin` that makes whole characters; empty if there is none."""
    pieces = b""
    for end in range(begin, min(begin + _LONGEST_RUN, len(tokens))):
        part = _partial_bytes(tokens[end])
        if part is None:
            return []
        pieces += part
        try:
            whole = pieces.decode("utf-8")
        except UnicodeDecodeError:
            continue
        return [*[""] * (end - begin), whole]
    return []


def _partial_bytes(token: str) -> bytes | None:
    """The bytes that a token may stand for, if they are no whole characters by themselves."""
    if found := _BYTE_PIECE.fullmatch(token):
        return bytes.fromhex(found[1])
    if token.isascii() or any(character not in _BYTE_OF for character in token):
        return None
    written = bytes(_BYTE_OF[character] for character in token)
    try:
        written.decode("utf-8")
    except UnicodeDecodeError:
        return written
    return None


def _byte_alphabet() -> dict[str, int]:
    """How byte-level tokenizers write bytes: printable Latin-1 as itself, the others from U+0100 on in their order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
