"""The rows of a row set as a relation in SQL."""

from typing import Any

import duckdb
import pyarrow as pa

from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.errors import LakeError
from logitlake.storage.lake.lake import Lake


def relation(where: str | None, documents: pa.Table | None) -> str:
    """The rows as a relation. The filter is in an outer query, so that it never sees held-out documents."""
    rows = "sequences" if documents is None else "sequences JOIN chosen_documents USING (doc_id)"
    inner = f"SELECT * FROM {rows} WHERE list_contains(?, recipe_id) AND commit_number <= ? AND held_out = ?"
    return f"(SELECT * FROM ({inner}) AS sequences WHERE ({where}))" if where else f"({inner})"


def relation_parameters(recipe_ids: tuple[str, ...], up_to: int, held_out: bool) -> list[Any]:
    """The values of the parameters of `relation`."""
    return [list(recipe_ids), up_to, held_out]


def ask(lake: Lake, query: str, parameters: list[Any] | dict[str, Any], documents: pa.Table | None = None) -> pa.Table:
    """The result of a query over `relation(…, documents)`. Raises LakeError with the message of DuckDB."""
    try:
        if documents is not None:
            lake.connection.register("chosen_documents", documents)
        return lake.connection.execute(query, parameters).to_arrow_table()
    except duckdb.Error as error:
        raise_for_lack_of_memory(error)
        raise LakeError(f"the row set can't be read: {error}") from error
