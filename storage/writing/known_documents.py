"""Which documents a lake already holds under a recipe: the anti-join that makes increments cheap."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from logitlake.storage.identity import ID_LENGTH, TRACE_ID_LENGTH, prompt_of
from logitlake.storage.lake.lake import Lake

_ID_BYTES = TRACE_ID_LENGTH // 2


class KnownDocuments:
    """Ids of the documents that need no teacher: cached under `recipe_id`, or forgotten, also by their prompt.

    A snapshot of the moment of its creation: 32 bytes a document, looked up by binary search, so that a night over a
    million known documents costs megabytes and seconds. Call it with a batch of ids; it returns the known ones.
    """

    def __init__(self, lake: Lake, recipe_id: str):
        rows = lake.sql(
            "SELECT doc_id FROM store.documents WHERE recipe_id = ? UNION SELECT doc_id FROM store.tombstones",
            [recipe_id],
        )
        forgotten = lake.sql("SELECT DISTINCT doc_id FROM store.tombstones")
        self._ids, self._forgotten = (np.sort(_packed(table["doc_id"].to_pylist())) for table in (rows, forgotten))

    def __len__(self) -> int:
        return len(self._ids)

    def __call__(self, doc_ids: Sequence[str]) -> set[str]:
        if not doc_ids:
            return set()
        # A trace comes back from another lake after its prompt was forgotten here.
        is_known = _among(self._ids, doc_ids) | _among(self._forgotten, [prompt_of(doc_id) for doc_id in doc_ids])
        return {doc_ids[hit] for hit in np.flatnonzero(is_known).tolist()}


def held_now(lake: Lake, recipe_id: str, doc_ids: pa.Array) -> pa.Array:
    """Those of the documents that the lake holds under the recipe at this moment, or that are forgotten, themselves or
    by their prompt."""
    lake.connection.register("incoming_ids", pa.table({"doc_id": doc_ids}))
    held = lake.sql(
        """
        SELECT doc_id FROM incoming_ids WHERE doc_id IN (
            SELECT doc_id FROM store.documents WHERE recipe_id = ? UNION ALL SELECT doc_id FROM store.tombstones)
            OR substr(doc_id, 1, ?) IN (SELECT doc_id FROM store.tombstones)
        """,
        [recipe_id, ID_LENGTH],
    )
    lake.connection.unregister("incoming_ids")
    return held["doc_id"].combine_chunks()


def held_by_all(lake: Lake, recipe_ids: Sequence[str], doc_ids: Sequence[str]) -> set[str]:
    """Those that need no teacher at this moment, under none of the recipes."""
    ids = pa.array(doc_ids, pa.string())
    return set.intersection(*(set(held_now(lake, recipe_id, ids).to_pylist()) for recipe_id in recipe_ids))


def known_to_all(recipes: Sequence[KnownDocuments]) -> Callable[[Sequence[str]], set[str]]:
    """A lookup of the documents that every one of several recipes needs no teacher for."""
    return lambda doc_ids: set.intersection(*(known(doc_ids) for known in recipes))


def _among(sorted_ids: np.ndarray, doc_ids: Sequence[str]) -> np.ndarray:
    """For each id, whether it is one of the sorted ones."""
    if not len(sorted_ids):
        return np.zeros(len(doc_ids), bool)
    packed = _packed(doc_ids)
    positions = np.minimum(np.searchsorted(sorted_ids, packed), len(sorted_ids) - 1)
    is_equal: np.ndarray = sorted_ids[positions] == packed
    return is_equal


def _packed(doc_ids: Sequence[str]) -> np.ndarray:
    """Hex ids as fixed-width byte strings, which NumPy sorts and compares without a Python object each.

    An id that is not a trace's ends in zeros here: it meets no trace's id, whose second half is a hash.
    """
    digits = "".join(doc_id.ljust(TRACE_ID_LENGTH, "0") for doc_id in doc_ids)
    return np.frombuffer(bytes.fromhex(digits), dtype=f"S{_ID_BYTES}")
