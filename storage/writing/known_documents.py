"""Which documents a lake already holds under a recipe: the anti-join that makes increments cheap."""

from collections.abc import Callable, Sequence

import numpy as np

from logitlake.storage.identity import TRACE_ID_LENGTH
from logitlake.storage.lake.lake import Lake

_ID_BYTES = TRACE_ID_LENGTH // 2


class KnownDocuments:
    """Ids of the documents that need no teacher: cached under `recipe_id`, or forgotten.

    A snapshot of the moment of its creation: 32 bytes a document, looked up by binary search, so that a night over a
    million known documents costs megabytes and seconds. Call it with a batch of ids; it returns the known ones.
    """

    def __init__(self, lake: Lake, recipe_id: str):
        rows = lake.sql(
            "SELECT doc_id FROM store.documents WHERE recipe_id = ? UNION SELECT doc_id FROM store.tombstones",
            [recipe_id],
        )
        self._ids = np.sort(_packed(rows["doc_id"].to_pylist()))

    def __len__(self) -> int:
        return len(self._ids)

    def __call__(self, doc_ids: Sequence[str]) -> set[str]:
        if not len(self._ids) or not doc_ids:
            return set()
        packed = _packed(doc_ids)
        positions = np.minimum(np.searchsorted(self._ids, packed), len(self._ids) - 1)
        hits = np.flatnonzero(self._ids[positions] == packed).tolist()
        return {doc_ids[hit] for hit in hits}


def known_to_all(recipes: Sequence[KnownDocuments]) -> Callable[[Sequence[str]], set[str]]:
    """A lookup of the documents that every one of several recipes needs no teacher for."""
    return lambda doc_ids: set.intersection(*(known(doc_ids) for known in recipes))


def _packed(doc_ids: Sequence[str]) -> np.ndarray:
    """Hex ids as fixed-width byte strings, which NumPy sorts and compares without a Python object each.

    An id that is not a trace's ends in zeros here: it meets no trace's id, whose second half is a hash.
    """
    digits = "".join(doc_id.ljust(TRACE_ID_LENGTH, "0") for doc_id in doc_ids)
    return np.frombuffer(bytes.fromhex(digits), dtype=f"S{_ID_BYTES}")
