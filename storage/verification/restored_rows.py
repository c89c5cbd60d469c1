"""Rows of a damaged small table that another place still holds: files that the catalog names no more, notes beside the
data, other tables, the shards."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.connection.object_store import list_paths, read_all
from logitlake.storage.errors import LakeError
from logitlake.storage.json_text import json_text
from logitlake.storage.lake.lake import Lake
from logitlake.storage.recovery.notes import noted_recipes, read_settings
from logitlake.storage.recovery.repeated_records import without_repeats_of
from logitlake.storage.recovery.salvage import POSITION, salvage
from logitlake.storage.recovery.table_files import data_files
from logitlake.storage.schema.row_hash import damaged_rows, row_hashes
from logitlake.storage.schema.tables import ROW_HASH, TABLES, Rebuild
from logitlake.storage.verification.catalog_files import current_files
from logitlake.storage.verification.file_state import examine_file
from logitlake.storage.writing.commits import documents_of

# The run that restored commits and students are said to come from.
RUN_ID = "repair"

# What a person can do about rows of a table that nothing else holds.
ADVICE = {
    "documents": "the next `logitlake capture` computes these documents again",
    "document_sources": "the next `logitlake capture` that reads the files notes them again",
    "rejects": "the next `logitlake capture` that reads the files notes them again",
    "vocabulary": "the next `logitlake capture` that loads the teacher writes them again",
    "traces": "`logitlake generate` writes them again, with the same seed",
    "forgotten_samples": "`logitlake generate` writes these samples once more, drops what is forgotten, and notes it",
    "verdicts": "`logitlake generate` judges the traces again",
    "student_losses": "`logitlake evaluate` measures them again",
    "damage": "`logitlake verify` finds again what is damaged",
}
NOTHING_ELSE = "nothing else holds them: if they matter, restore the file from a backup and verify again"


def restored_rows(
    lake: Lake, name: str, kept: pa.Table, damaged_files: Sequence[str], elsewhere: np.ndarray
) -> pa.Table:
    """Rows of the table `name` that are neither in `kept` (the intact rows of its damaged files) nor in its other files
    (`elsewhere`: the hashes of their rows)."""
    columns = TABLES[name].columns
    present = np.concatenate([elsewhere, _hashes(kept)])
    parts = [columns.empty_table()]
    if TABLES[name].rebuild is Rebuild.FROM_FILES:
        unnamed = _from_unnamed_files(lake, name, present)
        parts.append(without_repeats_of(name, _intact(lake, name, kept, damaged_files), unnamed))
    if name in _SOURCES:
        ids = _ids(lake, name, damaged_files)
        known = ids | {tuple(row.values()) for row in _keyed(name, pa.concat_tables([kept, *parts])).to_pylist()}
        rows = _SOURCES[name](lake).select(columns.names).cast(columns)
        fresh = [tuple(row.values()) not in known for row in _keyed(name, rows).to_pylist()]
        parts.append(rows.filter(pa.array(fresh, pa.bool_())))
    return pa.concat_tables([part.select(columns.names).cast(columns) for part in parts])


def _intact(lake: Lake, name: str, kept: pa.Table, damaged_files: Sequence[str]) -> pa.Table:
    """Every row of a table that is undamaged."""
    columns = TABLES[name].columns
    others = [examine_file(lake, file).intact for file in current_files(lake, name) if file.path not in damaged_files]
    return pa.concat_tables([part.select(columns.names).cast(columns) for part in (kept, *others)])


def _hashes(rows: pa.Table) -> np.ndarray:
    return np.asarray(row_hashes(rows).to_numpy(zero_copy_only=False), np.uint64)


def _keyed(name: str, rows: pa.Table) -> pa.Table:
    return rows.select(list(_KEYS[name]))


def _ids(lake: Lake, name: str, damaged_files: Sequence[str]) -> set[tuple[object, ...]]:
    """The keys that the intact files of a table hold."""
    keys: set[tuple[object, ...]] = set()
    for file in current_files(lake, name):
        if file.path not in damaged_files:
            keys |= {tuple(row.values()) for row in _keyed(name, examine_file(lake, file).intact).to_pylist()}
    return keys


def _from_unnamed_files(lake: Lake, name: str, present: np.ndarray) -> pa.Table:
    """Intact rows of files that the catalog names no more, such as those that were merged.

    Almost every table only gets new rows, so they belong to it, but for those of documents that were forgotten and of
    recipes that were retired. A row without a hash may have been replaced by one with a hash, and is left out.
    """
    table, named = TABLES[name], {file.path for file in current_files(lake, name)}
    schema = pa.schema([field.with_nullable(True) for field in table.stored])
    parts = [schema.empty_table()]
    for path in data_files(lake.location, name):
        if path not in named:
            rows = salvage(lake.location, name, path).rows.drop_columns([POSITION])
            rows = rows.filter(pc.and_(pc.is_valid(rows[ROW_HASH]), pc.invert(damaged_rows(rows))))
            parts.append(rows.filter(pa.array(~np.isin(_hashes(rows.drop_columns([ROW_HASH])), present))))
    rows = pa.concat_tables(parts)
    _, first = np.unique(rows[ROW_HASH].to_numpy(), return_index=True)
    rows = rows.take(pa.array(np.sort(first), pa.int64()))
    if table.forget:
        forgotten = _forgotten(lake)
        for column in table.forgotten_by:
            rows = rows.filter(pc.invert(pc.is_in(rows[column], value_set=forgotten)))
    if table.retire:
        units = lake.sql("SELECT DISTINCT unit_id FROM store.documents")["unit_id"].combine_chunks()
        rows = rows.filter(pc.is_in(rows["unit_id"], value_set=units))
    return rows.select(table.columns.names).cast(table.columns)


def _forgotten(lake: Lake) -> pa.Array:
    """Every document with a tombstone, in the table or beside the data."""
    noted = {PurePosixPath(path).stem for path in list_paths(lake.location, "tombstones/*.json")}
    try:
        in_table = lake.sql("SELECT DISTINCT doc_id FROM store.tombstones")["doc_id"].to_pylist()
    except LakeError:
        in_table = []
    return pa.array(sorted(noted | set(in_table)), pa.string())


def _documents(lake: Lake) -> pa.Table:
    """The documents of the shards that are undamaged: in a damaged one, nothing tells whether a document is whole."""
    parts = [TABLES["documents"].columns.empty_table()]
    for file in current_files(lake, "sequences"):
        state = examine_file(lake, file)
        if not state.problem or state.catalog_problem:
            rows = documents_of(state.intact.select(["doc_id", "recipe_id", "unit_id", "n_tokens"]))
            parts.append(rows.select(TABLES["documents"].columns.names).cast(TABLES["documents"].columns))
    return pa.concat_tables(parts)


def _commits(lake: Lake) -> pa.Table:
    """A commit for every unit: with its counts, and with the number of the last commit, because its own is lost."""
    rows = lake.sql(
        """
        SELECT
            (SELECT commit_number FROM store.guard) AS commit_number, d.unit_id, d.recipe_id, ? AS run_id,
            now() AS committed_at, count(*) AS n_documents, sum(d.n_sequences)::BIGINT AS n_sequences,
            sum(d.n_tokens)::BIGINT AS n_tokens, 0::BIGINT AS n_targets, 0::BIGINT AS n_bytes, 0::DOUBLE AS seconds
        FROM store.documents AS d GROUP BY d.unit_id, d.recipe_id
        """,
        [RUN_ID],
    )
    try:
        targets = lake.sql("SELECT unit_id, sum(n_targets)::BIGINT AS n FROM store.sequences GROUP BY unit_id")
    except LakeError:
        return rows
    by_unit = dict(zip(targets["unit_id"].to_pylist(), targets["n"].to_pylist(), strict=True))
    n_targets = pa.array([by_unit.get(unit_id, 0) for unit_id in rows["unit_id"].to_pylist()], pa.int64())
    return rows.set_column(rows.schema.get_field_index("n_targets"), "n_targets", n_targets)


def _recipes(lake: Lake) -> pa.Table:
    now = datetime.now(UTC)
    rows = [
        {"recipe_id": recipe_id, "recipe": recipe, "created_at": now}
        for recipe_id, recipe in noted_recipes(lake.location, {}).items()
    ]
    return pa.Table.from_pylist(rows, TABLES["recipes"].columns)


def _tombstones(lake: Lake) -> pa.Table:
    rows = []
    for path, content in _notes(lake, "tombstones").items():
        try:
            note = json.loads(content)
            when, reason = datetime.fromisoformat(note["forgotten_at"]), str(note["reason"])
        except (ValueError, KeyError, TypeError):
            when, reason = datetime.now(UTC), "unknown: the tombstone file is damaged"
        rows.append({"doc_id": PurePosixPath(path).stem, "reason": reason, "forgotten_at": when})
    return pa.Table.from_pylist(rows, TABLES["tombstones"].columns)


def _students(lake: Lake) -> pa.Table:
    rows, now = [], datetime.now(UTC)
    names = ("student_id", "parent_id", "row_set_id", "directory")
    for content in _notes(lake, "students").values():
        try:
            note = json.loads(content)
            row = {name: str(note[name]) for name in names}
            row |= {name: json_text(note[name]) for name in ("settings", "metrics")}
        except (ValueError, KeyError, TypeError):
            continue
        rows.append({**row, "run_id": RUN_ID, "created_at": now})
    return pa.Table.from_pylist(rows, TABLES["students"].columns)


def _settings(lake: Lake) -> pa.Table:
    """What `lake.json` says; the version of the views is made anew with the views."""
    try:
        noted = read_settings(lake.location, {})
    except LakeError:
        noted = {}
    names = [name for name in ("held_out_salt", "held_out_share", "created_at") if name in noted]
    settings = {name: str(noted[name]) for name in names} | {"views": "lost"}
    return pa.table({"name": [*settings], "value": [*settings.values()]}, TABLES["lake_settings"].columns)


def _notes(lake: Lake, folder: str) -> dict[str, bytes]:
    pattern = f"{folder}/*.json"
    try:
        return read_all(lake.location, pattern) if list_paths(lake.location, pattern) else {}
    except duckdb.Error:
        return {}


# Where the rows of a table can be made from, and what tells one of them from another.
_SOURCES: dict[str, Callable[[Lake], pa.Table]] = {
    "lake_settings": _settings,
    "documents": _documents,
    "commits": _commits,
    "recipes": _recipes,
    "tombstones": _tombstones,
    "students": _students,
}
_KEYS: dict[str, tuple[str, ...]] = {
    "lake_settings": ("name",),
    "documents": ("doc_id", "recipe_id"),
    "commits": ("unit_id",),
    "recipes": ("recipe_id",),
    "tombstones": ("doc_id",),
    "students": ("student_id",),
}
