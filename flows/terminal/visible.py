"""Make control characters in documents, paths and errors visible, so that a terminal does not execute them."""

import unicodedata

# Emoji and several scripts need these two; they are harmless.
_JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    """The text with every unprintable character as a symbol or a code.

    New lines and tabs stay. Escape sequences and marks that reverse the text direction are shown, not executed.
    """
    if text.isprintable():
        return text
    return "".join(character if character in "\n\t" else _shown(character) for character in text)


def _shown(character: str) -> str:
    if character < " ":
        return chr(0x2400 + ord(character))
    if character == "\x7f":
        return "\u2421"
    # Control, format, surrogate and unassigned characters may have effects; others are harmless.
    harmless = character in _JOINERS or unicodedata.category(character)[0] != "C"
    return character if harmless else f"\\u{ord(character):04x}"
