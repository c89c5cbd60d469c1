"""Canonical hashing: the same content has the same id, on any machine, in any order of keys, for ever.

All ids are SHA-256 cut to 128 bits, as 32 lower-case hex characters: text prunes files in DuckDB where BLOBs do not.
Python's own `hash` is salted per process and never used.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

ID_LENGTH = 32
TRACE_ID_LENGTH = 2 * ID_LENGTH

# The part of a recipe that describes its targets to readers and is not hashed; see target_facts.
FACTS = "facts"
_HELD_OUT_DIGITS = 8


def canonical_json(value: Any) -> bytes:
    """One byte string for one JSON value: sorted keys, no white space, UTF-8, no NaN (ValueError, TypeError)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="surrogatepass")


def digest(*parts: bytes) -> str:
    """Hash of a sequence of byte strings; each is preceded by its length, so that no two sequences run together."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()[:ID_LENGTH]


def document_id(content: str | Mapping[str, Any] | Sequence[Any]) -> str:
    """Id of a document: a text by its UTF-8 bytes as they are, a chat or a pair by its canonical JSON.

    The two kinds never meet: a text that happens to be the JSON of a chat has another id than the chat.
    """
    if isinstance(content, str):
        return hashlib.sha256(b"text\0" + content.encode("utf-8", errors="surrogatepass")).hexdigest()[:ID_LENGTH]
    return hashlib.sha256(b"json\0" + canonical_json(content)).hexdigest()[:ID_LENGTH]


def recipe_id(recipe: Mapping[str, Any]) -> str:
    """Id of a recipe: the hash of everything in it but its facts, which follow from the rest."""
    return digest(b"recipe", canonical_json({key: value for key, value in recipe.items() if key != FACTS}))


def trace_id(prompt_id: str, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> str:
    """Id of a trace: the id of its prompt, then a hash of all token ids. 64 hex characters.

    So the prompt alone decides whether a trace is held out, in every client: see `held_out`.
    """
    return prompt_id + digest(b"trace", canonical_json([[*prompt_ids], [*completion_ids]]))


def prompt_of(doc_id: str) -> str:
    """The id that decides whether a document is held out: its prompt's if it is a trace, else its own."""
    return doc_id[:ID_LENGTH]


def held_out(doc_id: str, *, salt: str, share: float) -> bool:
    """Whether a document is held out: a salted hash of its id falls below `share` of the range of 32-bit numbers.

    A trace is held out if its prompt is. The view `documents` computes the same in SQL, so that any client sees the
    same split.
    """
    head = hashlib.sha256(f"{salt}:{prompt_of(doc_id)}".encode()).hexdigest()[:_HELD_OUT_DIGITS]
    return int(head, 16) < held_out_bound(share)


def held_out_bound(share: float) -> int:
    """The first 32-bit number that is not held out."""
    return round(share * (1 << (4 * _HELD_OUT_DIGITS)))
