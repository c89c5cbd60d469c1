"""Write a row set in an export format: a directory that is ready for the Hub, whole or not at all."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from logitlake.pipeline.exports.card import card
from logitlake.pipeline.exports.entries import merged_entries
from logitlake.pipeline.exports.export_format import ExportContext, ExportFormat
from logitlake.storage.errors import IntegrityError, LakeError, MismatchError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.export import new_directory, write_lineage
from logitlake.storage.row_sets.row_set import RowSet, fetch
from logitlake.storage.schema.sequences import differing_targets

# Of a row group. Hub's viewer reads whole row groups, so they must stay small.
_GROUP_ROWS = 1000
_CHECKED = ("n_tokens", "n_targets", "levels", "input_ids", "target_ids", "head_codes", "targets_hash")


def export_in_format(
    lake: Lake, rows: RowSet, directory: Path, kind: ExportFormat, *, n_missing: int = 0, file_tokens: int | None = None
) -> Path:
    """Write the rows to `directory`, which must be new or empty.

    Files hold whole work units in the order of their commits, and their pages are cut by content: the files of an
    export that was made again after an increment are the same but for the last one and new ones. Memory holds the
    stored rows of one file. `file_tokens` overrides the format's. Raises MismatchError for recipes of several
    tokenizers or temperatures, IntegrityError for rows that were changed on disk.
    """
    with new_directory(directory) as staged:
        note = write_lineage(lake, rows, staged, n_missing)
        files = list(_files(lake, rows, file_tokens or kind.file_tokens))
        context = ExportContext(
            recipe=_shared_recipe(note["recipes"]), max_entries=0, split="test" if rows.held_out else "train"
        )
        kind.check(context)
        if kind.needs_max_entries:
            context = replace(context, max_entries=_max_entries(lake, rows, files))
        (staged / "data").mkdir()
        for number, unit_ids in enumerate(files):
            stored = _read(lake, rows, unit_ids, kind.columns)
            converted = (kind.convert(part, context) for part in _parts(stored, kind.part_tokens))
            schema = _write_file(staged / "data" / f"{context.split}-{number:05d}.parquet", converted)
        for name, text in kind.files(context).items():
            (staged / name).write_text(text, encoding="utf-8")
        (staged / "README.md").write_text(card(note, kind, context, schema), encoding="utf-8")
    return directory


def _files(lake: Lake, rows: RowSet, file_tokens: int) -> Iterator[list[str]]:
    """Work units of one file after the other, the oldest commit first."""
    commits = lake.sql("SELECT unit_id, min(commit_number) AS number FROM store.commits GROUP BY unit_id").to_pylist()
    numbers = {row["unit_id"]: row["number"] for row in commits}
    held, tokens = list[str](), 0
    for unit in sorted(rows.units.to_pylist(), key=lambda unit: (numbers[unit["unit_id"]], unit["unit_id"])):
        if held and tokens + unit["n_tokens"] > file_tokens:
            yield held
            held, tokens = [], 0
        held.append(unit["unit_id"])
        tokens += unit["n_tokens"]
    if held:
        yield held


def _read(lake: Lake, rows: RowSet, unit_ids: list[str], columns: tuple[str, ...]) -> pa.Table:
    """The rows of some units in the order of `unit_ids`, compared with their hashes."""
    names = list(dict.fromkeys([*columns, *_CHECKED, "unit_id", "doc_id", "window_index"]))
    table = fetch(lake, rows, unit_ids, names)
    if pc.any(differing_targets(table.combine_chunks())).as_py():
        raise IntegrityError(
            f"units {', '.join(unit_ids[:3])}: a row does not match its hash, so it was changed on disk; "
            "`logitlake verify` names the file: restore it from a backup, or run `logitlake repair`"
        )
    order = pc.index_in(table["unit_id"], pa.array(unit_ids)).to_numpy()
    table = table.take(pa.array(np.argsort(order, kind="stable")))
    return table.select([*columns, *(["weight"] if rows.weight else [])]).combine_chunks()


def _parts(table: pa.Table, part_tokens: int) -> Iterator[pa.Table]:
    """The rows in parts of so many tokens at most; a longer row is a part of its own."""
    lengths = pc.list_value_length(table["input_ids"]).to_numpy()
    begin, tokens = 0, 0
    for row, length in enumerate(lengths.tolist()):
        if row > begin and tokens + length > part_tokens:
            yield table.slice(begin, row - begin)
            begin, tokens = row, 0
        tokens += length
    yield table.slice(begin)


def _max_entries(lake: Lake, rows: RowSet, files: list[list[str]]) -> int:
    counts = (
        merged_entries(_read(lake, rows, unit_ids, ("levels", "target_ids", "head_codes")), cut_mass="ghost").counts
        for unit_ids in files
    )
    return max(int(of_file.max(initial=0)) for of_file in counts)


def _write_file(path: Path, tables: Iterable[pa.Table]) -> pa.Schema:
    """Write tables of one schema one after the other; returns the schema.

    Lists take no dictionary: a row less would renumber it, and with it every page of the column.
    """
    with path.open("wb") as file, ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for table in tables:
            if writer is None:
                flat = [field.name for field in table.schema if not pa.types.is_list(field.type)]
                options = {"use_dictionary": flat, "use_content_defined_chunking": True, "write_page_index": True}
                writer = stack.enter_context(pq.ParquetWriter(file, table.schema, compression="zstd", **options))
            writer.write_table(table, row_group_size=_GROUP_ROWS)
    assert writer is not None, "a file has a row"
    return writer.schema


def _shared_recipe(recipes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One of the recipes. Raises MismatchError unless they have tokenizer and temperature in common."""
    if not recipes:
        raise LakeError("the lake holds no recipe of these rows: run `logitlake verify`")
    first, *others = recipes.values()
    for name in ("tokenizer", "temperature"):
        found = {str(recipe[name]) for recipe in (first, *others)}
        if len(found) > 1:
            raise MismatchError(
                f"export: expected rows of one {name}, found {', '.join(sorted(found))}; export each recipe by itself"
            )
    return first
