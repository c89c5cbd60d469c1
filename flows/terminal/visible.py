"""Text from documents, paths and errors on a terminal: shown, and never obeyed."""

import unicodedata

# Emoji and several scripts are spelled with these two; they move nothing.
_JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    """The same with nothing in it that a terminal would obey: what is not to be printed stands as a symbol or a code.

    New lines and tabs stay. Escape sequences, and the marks that reverse the direction of text, are shown and not done.
    """
    if text.isprintable():
        return text
    return "".join(character if character in "\n\t" else _shown(character) for character in text)


def _shown(character: str) -> str:
    if character < " ":
        return chr(0x2400 + ord(character))
    if character == "\x7f":
        return "\u2421"
    # Controls, formats, surrogates and what is not assigned may do anything; letters and spaces are what they are.
    harmless = character in _JOINERS or unicodedata.category(character)[0] != "C"
    return character if harmless else f"\\u{ord(character):04x}"
