"""What a student sees: a set of rows that can be named, counted, hashed, and read again later.

A row set is (recipes, commit number up to N, filter, sampling weight, and the documents that a query chose, if one
did). Held-out documents are excluded before any filter is asked. The filter is SQL over the view `sequences`, whose
columns never change once a row is committed, and what a query chose is kept as a list; so the same row set read later
is the same rows, less what was forgotten since, and the content hash tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from logitlake.storage.errors import IntegrityError, LakeError, SettingsError
from logitlake.storage.identity import canonical_json, digest
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.relation import ask, relation, relation_parameters
from logitlake.storage.row_sets.selection import check_expression, choose_documents
from logitlake.storage.schema.sequences import SEQUENCES
from logitlake.storage.schema.tables import NAME
from logitlake.storage.shards.reading import read_shard_rows

# The column that the documents of a query bring to their rows.
_CHOSEN_WEIGHT = "weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSet:
    """A set of sequences. `units` has a row per work unit (unit_id, n_sequences, n_tokens, n_targets), by unit_id.

    `documents` (logitlake.storage.row_sets.selection.CHOSEN) are what `query` chose; None without one.
    """

    row_set_id: str
    recipe_ids: tuple[str, ...]
    up_to_commit: int
    where: str | None
    weight: str | None
    held_out: bool
    content_hash: str
    n_sequences: int
    n_tokens: int
    n_targets: int
    units: pa.Table
    query: str | None = None
    documents: pa.Table | None = None


def resolve_row_set(
    lake: Lake,
    *,
    recipe_id: str | Sequence[str],
    where: str | None = None,
    weight: str | None = None,
    query: str | None = None,
    up_to_commit: int | None = None,
    held_out: bool = False,
    documents: pa.Table | None = None,
) -> RowSet:
    """Find the rows. `held_out=True` takes the held-out documents and nothing else, for evaluation.

    `query` chooses documents, and gives them a sampling weight if it has such a column; `documents` is what it chose,
    for one that was asked before. Raises SettingsError for a filter or weight that is not an expression over
    `sequences`, or a query that is not one (see logitlake.storage.row_sets.selection), LakeError if no row is left.
    """
    recipe_ids = tuple(sorted([recipe_id] if isinstance(recipe_id, str) else recipe_id))
    up_to = _last_commit(lake, recipe_ids) if up_to_commit is None else up_to_commit
    if where is not None:
        check_expression(lake, "where", where)
    if query is not None:
        documents = choose_documents(lake, query) if documents is None else documents
    if documents is not None and documents["weight"].null_count < documents.num_rows:
        weight = _weight_of_query(weight)
    elif weight is not None:
        check_expression(lake, "weight", weight)
    units = ask(
        lake,
        f"""
        SELECT
            unit_id, count(*) AS n_sequences, sum(n_tokens)::BIGINT AS n_tokens, sum(n_targets)::BIGINT AS n_targets,
            bit_xor(md5_number(row_key))::VARCHAR AS hash
        FROM (
            SELECT
                unit_id, n_tokens, n_targets,
                concat_ws(':', recipe_id, doc_id, window_index, checksum, {weight or "''"}) AS row_key
            FROM {relation(where, documents)} AS sequences
        )
        GROUP BY unit_id ORDER BY unit_id
        """,
        relation_parameters(recipe_ids, up_to, held_out),
        documents,
    )
    check_all_visible(lake, recipe_ids)
    if not units.num_rows:
        raise LakeError(
            f"no rows to {'evaluate on' if held_out else 'train on'}: recipes {', '.join(r[:12] for r in recipe_ids)}, "
            f"commits up to {up_to}, {'held-out documents only' if held_out else 'held-out documents excluded'}"
            f"{f', where {where}' if where else ''}{', chosen by the query' if query else ''}; look with "
            "`logitlake show documents`"
        )
    counts = {name: sum(units[name].to_pylist()) for name in ("n_sequences", "n_tokens", "n_targets")}
    # What md5_number_lower gives are the upper 64 bits of md5_number.
    low, high = divmod(_xor(units["hash"]), 2**64)
    content_hash = digest(b"rows", f"{counts['n_sequences']}:{low}:{high}".encode())
    described = {
        "recipes": recipe_ids,
        "up_to_commit": up_to,
        "where": where,
        "weight": weight,
        "held_out": held_out,
        "content_hash": content_hash,
        # Named only where there is one: row sets without keep the ids they always had.
        **({} if query is None else {"query": query}),
    }
    return RowSet(
        row_set_id=digest(b"row set", canonical_json(described)),
        recipe_ids=recipe_ids,
        up_to_commit=up_to,
        where=where,
        weight=weight,
        held_out=held_out,
        content_hash=content_hash,
        units=units.drop_columns(["hash"]),
        query=query,
        documents=documents,
        **counts,
    )


def fetch(lake: Lake, row_set: RowSet, unit_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """The rows of some units by (unit_id, doc_id, window_index), with a column `weight` if the row set has one."""
    extra = f", ({row_set.weight})::DOUBLE AS weight" if row_set.weight else ""
    units = f"unit_id IN ({', '.join(['?'] * len(unit_ids))})"
    rows_now = f"{relation(row_set.where, row_set.documents)} AS sequences WHERE {units}"
    parameters = [*relation_parameters(row_set.recipe_ids, row_set.up_to_commit, row_set.held_out), *unit_ids]
    if lake.location.data_directory is None or not _has_lists(columns):
        names = ", ".join(f'"{column}"' for column in columns)
        ordered = f"SELECT {names}{extra} FROM {rows_now} ORDER BY unit_id, doc_id, window_index"
        return ask(lake, ordered, parameters, row_set.documents)
    places = ask(
        lake,
        f"""
        SELECT p.filename, p.file_row_number, r.* EXCLUDE (unit_id, doc_id, window_index)
        FROM (SELECT unit_id, doc_id, window_index{extra} FROM {rows_now}) AS r
        JOIN (
            SELECT filename, file_row_number, unit_id, doc_id, window_index
            FROM {NAME}.store.sequences WHERE {units}
        ) AS p USING (unit_id, doc_id, window_index)
        ORDER BY unit_id, doc_id, window_index
        """,
        [*parameters, *unit_ids],
        row_set.documents,
    )
    if not places.num_rows:
        return pa.schema([SEQUENCES.field(column) for column in columns]).empty_table()
    rows = read_shard_rows(places, columns)
    return rows.append_column("weight", places["weight"]) if row_set.weight else rows


def _has_lists(columns: Sequence[str]) -> bool:
    """Whether these are columns of a shard and lists are among them: only then are the shards worth opening."""
    fields = [SEQUENCES.field(column) for column in columns if column in SEQUENCES.names]
    return len(fields) == len(columns) and any(pa.types.is_list(field.type) for field in fields)


def check_all_visible(lake: Lake, recipe_ids: tuple[str, ...]) -> None:
    """Raises IntegrityError if the lake holds sequences of these recipes that the tables of documents and commits do
    not name any more: a damaged file of theirs takes rows away, and nothing else tells."""
    counts = ask(
        lake,
        """
        SELECT
            (SELECT count(*) FROM store.sequences WHERE list_contains($recipes, recipe_id)) AS held,
            (SELECT count(*) FROM sequences WHERE list_contains($recipes, recipe_id)) AS visible
        """,
        {"recipes": list(recipe_ids)},
    ).to_pylist()[0]
    if counts["held"] != counts["visible"]:
        raise IntegrityError(
            f"the shards hold {counts['held']} sequences, the tables `documents` and `commits` name "
            f"{counts['visible']} of them: a file of the lake is damaged. Look with `logitlake verify`, mend with "
            "`logitlake repair`"
        )


def _last_commit(lake: Lake, recipe_ids: tuple[str, ...]) -> int:
    """The last commit that brought rows of these recipes: a run that brings nothing leaves row sets as they were."""
    last = ask(
        lake,
        "SELECT max(commit_number) AS number FROM store.commits WHERE list_contains(?, recipe_id)",
        [list(recipe_ids)],
    )
    return int(last["number"][0].as_py() or 0)


def _weight_of_query(weight: str | None) -> str:
    """The column `weight` that the query gave, which the rows then have."""
    if weight not in (None, _CHOSEN_WEIGHT):
        raise SettingsError(f"training.weight {weight!r}: the query gives a weight already; leave out one of the two")
    return _CHOSEN_WEIGHT


def _xor(values: pa.ChunkedArray) -> int:
    result = 0
    for value in values.to_pylist():
        result ^= int(value)
    return result
