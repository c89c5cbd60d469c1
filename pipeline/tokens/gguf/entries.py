"""The types and ranges of the entries by which a GGUF file describes its tokenizer, and the error for others."""

from collections.abc import Callable, Mapping
from typing import Any

_PREFIX = "tokenizer.ggml."
_SHOWN = 60


class UnknownTokenizerError(ValueError):
    """A file does not say how it turns text into ids, or says it by a name that is not known here."""


def check_entries(metadata: Mapping[str, Any]) -> None:
    """Raises UnknownTokenizerError for an entry of another type, length or range than it must have. None may be missing
    or None: what needs an entry says so.
    """
    for name, (expected, is_right) in _TYPES.items():
        value = metadata.get(name)
        if value is not None and not is_right(value):
            raise _error(name, expected, value)
    tokens = metadata.get(f"{_PREFIX}tokens")
    if tokens is None:
        return
    for name in (f"{_PREFIX}scores", f"{_PREFIX}token_type"):
        value = metadata.get(name)
        if value is not None and len(value) != len(tokens):
            raise _error(name, f"{len(tokens)} entries, one for each token", f"{len(value)} entries")
    for name in _IDS:
        value = metadata.get(name)
        if value is not None and not 0 <= value < len(tokens):
            raise _error(name, f"an id below {len(tokens)}, the number of tokens", value)


def _error(name: str, expected: str, found: Any) -> UnknownTokenizerError:
    shown = found if isinstance(found, str) else repr(found)
    return UnknownTokenizerError(f"expected {expected} in {name}, found {shown[:_SHOWN]}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


def _is_pair(value: Any) -> bool:
    return isinstance(value, str) and " " in value


_TEXT = ("a text", _is_text)
_FLAG = ("true or false", lambda value: isinstance(value, bool))
_IDS = [f"{_PREFIX}{name}_token_id" for name in ("bos", "eos", "unknown", "padding")]
_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "general.architecture": _TEXT,
    "tokenizer.chat_template": _TEXT,
    f"{_PREFIX}model": _TEXT,
    f"{_PREFIX}pre": _TEXT,
    f"{_PREFIX}tokens": (
        "a list of one or more texts",
        lambda value: bool(value) and _is_list_of(_is_text)(value),
    ),
    f"{_PREFIX}token_type": ("a list of whole numbers", _is_list_of(_is_integer)),
    f"{_PREFIX}scores": (
        "a list of numbers",
        _is_list_of(lambda value: _is_integer(value) or isinstance(value, float)),
    ),
    f"{_PREFIX}merges": ("a list of pairs of texts with a space between them", _is_list_of(_is_pair)),
    **{f"{_PREFIX}{name}": _FLAG for name in ("add_bos_token", "add_eos_token", "add_space_prefix")},
    **dict.fromkeys(_IDS, ("a whole number", _is_integer)),
}
