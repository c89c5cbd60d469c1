"""Text of a document from its tokens, where a token may be a part of a character.

The vocabulary of a lake stores such a token as the tokenizer's own piece: in the alphabet of byte-level tokenizers
(U+0120 for a space, `Ã` for the byte C3), or as `<0xC3>`. This module joins such pieces. A piece may also be text (`é`
is also the byte E9), so a token is read as bytes only if it and its neighbours make whole characters, which parts of a
document's text always do.
"""

import re
from collections.abc import Sequence

# A character has four bytes at most, and a token may end one and begin the next.
_LONGEST_RUN = 8
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def decoded(tokens: Sequence[str]) -> list[str]:
    """The text of each token; the last part of a character gets the whole character, its other parts are empty.

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
    """The bytes of a token, or None if they are whole characters by themselves."""
    if match := _BYTE_PIECE.fullmatch(token):
        return bytes.fromhex(match[1])
    if token.isascii() or any(character not in _BYTE_OF for character in token):
        return None
    written = bytes(_BYTE_OF[character] for character in token)
    try:
        written.decode("utf-8")
    except UnicodeDecodeError:
        return written
    return None


def _byte_alphabet() -> dict[str, int]:
    """The alphabet of byte-level tokenizers: printable Latin-1 as itself, the others from U+0100 on in their order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
