"""File names as text that every table, log and terminal can hold."""

# Scripts and emoji in names need these two; they are harmless.
_JOINERS = "\u200c\u200d"


def escaped(name: str) -> str:
    r"""A file name with its unprintable characters as escapes: a new line as `\n`, a byte that is not UTF-8 as `\xe9`.

    A backslash is doubled, so that two names never become one.
    """
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(map(_escape, name))


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable() or character in _JOINERS:
        return character
    # Python reads a byte that is not UTF-8 as one of the surrogates DC80 to DCFF.
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
