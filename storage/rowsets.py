"""What a student sees: a set of rows that can be named, counted, hashed, and read again later.

A row set is (recipes, commit number up to N, filter, sampling weight). Held-out documents are excluded before any
filter is asked. The filter is SQL over the view `sequences`, whose columns never change once a row is committed; so the
same row set read later is the same rows, less what was forgotten since, and the content hash tells.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from storage.errors import IntegrityError, LakeError, QueryError, SettingsError
from storage.identity import canonical_json, digest
from storage.lake import Lake
from storage.schema import SEQUENCES
from storage.shard_rows import read_shard_rows
from storage.sql_tree import functions, has_subquery, has_window_function, parse_select, unstable_functions


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSet:
    """A set of sequences. `units` has a row per work unit (unit_id, n_sequences, n_tokens, n_targets), by unit_id."""

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


def resolve_row_set(
    lake: Lake,
    *,
    recipe_id: str | Sequence[str],
    where: str | None = None,
    weight: str | None = None,
    up_to_commit: int | None = None,
    held_out: bool = False,
) -> RowSet:
    """Find the rows. `held_out=True` takes the held-out documents and nothing else, for evaluation.

    Raises SettingsError for a filter or weight that is not an expression over `sequences`, LakeError if no row is left.
    """
    recipe_ids = tuple(sorted([recipe_id] if isinstance(recipe_id, str) else recipe_id))
    up_to = _last_commit(lake, recipe_ids) if up_to_commit is None else up_to_commit
    for name, expression in (("where", where), ("weight", weight)):
        if expression is not None:
            _check_expression(lake, name, expression)
    units = _ask(
        lake,
        f"""
        SELECT
            unit_id, count(*) AS n_sequences, sum(n_tokens)::BIGINT AS n_tokens, sum(n_targets)::BIGINT AS n_targets,
            bit_xor(md5_number_lower(row_key))::VARCHAR AS low, bit_xor(md5_number_upper(row_key))::VARCHAR AS high
        FROM (
            SELECT
                unit_id, n_tokens, n_targets,
                concat_ws(':', recipe_id, doc_id, window_index, checksum, {weight or "''"}) AS row_key
            FROM {_rows(where)} AS sequences
        )
        GROUP BY unit_id ORDER BY unit_id
        """,
        _parameters(recipe_ids, up_to, held_out),
    )
    if not units.num_rows:
        raise LakeError(
            f"no rows to {'evaluate on' if held_out else 'train on'}: recipes {', '.join(r[:12] for r in recipe_ids)}, "
            f"commits up to {up_to}, {'held-out documents only' if held_out else 'held-out documents excluded'}"
            f"{f', where {where}' if where else ''}; look with `logitlake show documents`"
        )
    counts = {name: sum(units[name].to_pylist()) for name in ("n_sequences", "n_tokens", "n_targets")}
    low, high = _xor(units["low"]), _xor(units["high"])
    content_hash = digest(b"rows", f"{counts['n_sequences']}:{low}:{high}".encode())
    described = {
        "recipes": recipe_ids,
        "up_to_commit": up_to,
        "where": where,
        "weight": weight,
        "held_out": held_out,
        "content_hash": content_hash,
    }
    return RowSet(
        row_set_id=digest(b"row set", canonical_json(described)),
        recipe_ids=recipe_ids,
        up_to_commit=up_to,
        where=where,
        weight=weight,
        held_out=held_out,
        content_hash=content_hash,
        units=units.drop_columns(["low", "high"]),
        **counts,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reread:
    """A row set as it can be read today; `n_missing` sequences that were there at first are forgotten since."""

    rows: RowSet
    n_missing: int


def read_again(lake: Lake, row_set_id: str) -> Reread:
    """The row set with this id (or its beginning), by its own rule. Raises LakeError if there is none, or nothing left.

    Raises IntegrityError if no row is missing and yet the content is another one: rows never change.
    """
    found = lake.row("SELECT * FROM row_sets WHERE starts_with(row_set_id, ?) ORDER BY created_at DESC", [row_set_id])
    if not found:
        raise LakeError(f"no row set {row_set_id!r} in this lake; `logitlake show row-sets` lists those there are")
    rows = resolve_row_set(
        lake,
        recipe_id=found["recipe_ids"],
        where=found["filter"],
        weight=found["weight"],
        up_to_commit=found["up_to_commit"],
    )
    n_missing = found["n_sequences"] - rows.n_sequences
    if n_missing <= 0 and rows.content_hash != found["content_hash"]:
        raise IntegrityError(
            f"row set {found['row_set_id']}: expected content {found['content_hash']}, found {rows.content_hash} in "
            f"{rows.n_sequences} sequences ({found['n_sequences']} then): `logitlake verify` names what is damaged"
        )
    return Reread(rows=rows, n_missing=n_missing)


def fetch(lake: Lake, row_set: RowSet, unit_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """The rows of some units by (unit_id, doc_id, window_index), with a column `weight` if the row set has one."""
    extra = f", ({row_set.weight})::DOUBLE AS weight" if row_set.weight else ""
    units = f"unit_id IN ({', '.join(['?'] * len(unit_ids))})"
    relation = f"{_rows(row_set.where)} AS sequences WHERE {units}"
    parameters = [*_parameters(row_set.recipe_ids, row_set.up_to_commit, row_set.held_out), *unit_ids]
    if lake.location.data_directory is None or not set(columns) <= set(SEQUENCES.names):
        names = ", ".join(f'"{column}"' for column in columns)
        return _ask(lake, f"SELECT {names}{extra} FROM {relation} ORDER BY unit_id, doc_id, window_index", parameters)
    places = _ask(
        lake,
        f"""
        SELECT p.filename, p.file_row_number, r.* EXCLUDE (unit_id, doc_id, window_index)
        FROM (SELECT unit_id, doc_id, window_index{extra} FROM {relation}) AS r
        JOIN (
            SELECT filename, file_row_number, unit_id, doc_id, window_index FROM store.sequences WHERE {units}
        ) AS p USING (unit_id, doc_id, window_index)
        ORDER BY unit_id, doc_id, window_index
        """,
        [*parameters, *unit_ids],
    )
    if not places.num_rows:
        return pa.schema([SEQUENCES.field(column) for column in columns]).empty_table()
    rows = read_shard_rows(places, columns)
    return rows.append_column("weight", places["weight"]) if row_set.weight else rows


def register_row_set(lake: Lake, row_set: RowSet) -> None:
    """Make a row set known, so that a student can name it. Idempotent."""
    if lake.row("SELECT 1 AS found FROM store.row_sets WHERE row_set_id = ?", [row_set.row_set_id]):
        return
    documents = {row_set.row_set_id: _documents(lake, row_set)} if row_set.where else {}
    with lake.transaction() as transaction:
        for row_set_id, doc_ids in (documents | _unlisted(lake)).items():
            ids = pa.array([row_set_id] * len(doc_ids), pa.string())
            weights = pa.nulls(len(doc_ids), pa.float64())
            listed = pa.table({"row_set_id": ids, "doc_id": doc_ids, "weight": weights})
            transaction.insert("row_set_documents", listed)
        rule = (list(row_set.recipe_ids), row_set.up_to_commit, row_set.where, row_set.weight)
        counts = (row_set.n_sequences, row_set.n_tokens, row_set.n_targets)
        transaction.connection.execute(
            "INSERT INTO store.row_sets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [row_set.row_set_id, *rule, *counts, row_set.content_hash, datetime.now(UTC)],
        )


def _documents(lake: Lake, row_set: RowSet) -> pa.ChunkedArray:
    """Ids of the documents that have a row in it."""
    parameters = _parameters(row_set.recipe_ids, row_set.up_to_commit, row_set.held_out)
    return _ask(lake, f"SELECT DISTINCT doc_id FROM {_rows(row_set.where)} ORDER BY doc_id", parameters)["doc_id"]


def _unlisted(lake: Lake) -> dict[str, pa.ChunkedArray]:
    """Documents of filtered row sets that an older logitlake registered: it kept no list of them."""
    older = lake.sql(
        """
        SELECT * FROM row_sets
        WHERE filter IS NOT NULL AND row_set_id NOT IN (SELECT row_set_id FROM store.row_set_documents)
        """
    ).to_pylist()
    found = {}
    for row in older:
        parameters = _parameters(row["recipe_ids"], row["up_to_commit"], False)
        rows = _ask(lake, f"SELECT DISTINCT doc_id FROM {_rows(row['filter'])} ORDER BY doc_id", parameters)
        found[row["row_set_id"]] = rows["doc_id"]
    return found


def _last_commit(lake: Lake, recipe_ids: tuple[str, ...]) -> int:
    """The last commit that brought rows of these recipes: a run that brings nothing leaves row sets as they were."""
    found = _ask(
        lake,
        "SELECT max(commit_number) AS number FROM store.commits WHERE list_contains(?, recipe_id)",
        [list(recipe_ids)],
    )
    return int(found["number"][0].as_py() or 0)


def _rows(where: str | None) -> str:
    """The rows as a relation: held-out documents are gone before the filter, which stands in a query of its own."""
    inner = "SELECT * FROM sequences WHERE list_contains(?, recipe_id) AND commit_number <= ? AND held_out = ?"
    return f"(SELECT * FROM ({inner}) AS sequences WHERE ({where}))" if where else f"({inner})"


def _parameters(recipe_ids: tuple[str, ...], up_to: int, held_out: bool) -> list[Any]:
    return [list(recipe_ids), up_to, held_out]


def _check_expression(lake: Lake, name: str, expression: str) -> None:
    """Refuse what is not one plain expression: a row set must mean the same whenever it is read."""
    setting = f"training.{name} {expression!r}"
    try:
        tree = parse_select(f"SELECT ({expression})")
        kind = str(lake.connection.sql("SELECT * FROM sequences LIMIT 0").select(f"({expression}) AS value").types[0])
    except (duckdb.Error, QueryError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"{setting}: not an expression over the view `sequences`: {reason}") from None
    if has_subquery(tree):
        raise SettingsError(f"{setting}: a subquery may answer differently later, and a row set must not; name columns")
    if unstable := functions(tree) & unstable_functions():
        raise SettingsError(f"{setting}: {', '.join(sorted(unstable))} answers differently every time")
    if has_window_function(tree):
        raise SettingsError(f"{setting}: rows are read some units at a time, so a window over them means nothing")
    if name == "where" and kind != "BOOLEAN":
        raise SettingsError(f"{setting}: expected BOOLEAN, found {kind}")
    if name == "weight" and not re.match(r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL)", kind):
        raise SettingsError(f"{setting}: expected a number, found {kind}")


def _ask(lake: Lake, query: str, parameters: list[Any]) -> pa.Table:
    try:
        return lake.connection.execute(query, parameters).to_arrow_table()
    except duckdb.Error as error:
        raise LakeError(f"the row set can't be read: {error}") from error


def _xor(values: pa.ChunkedArray) -> int:
    result = 0
    for value in values.to_pylist():
        result ^= int(value)
    return result
