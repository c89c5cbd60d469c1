"""A row set as a separate data set: a directory of Parquet files that `datasets`, Polars or DuckDB load as they are.

The columns are those of the stored rows (docs/format.md), so that nothing is lost; the note beside them says which rows
of which recipes they are.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from logitlake.storage.errors import SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import RowSet, fetch
from logitlake.storage.schema.sequences import FORMAT_VERSION, SEQUENCES
from logitlake.storage.staging import errors_name, staged_beside

NOTE = "lineage.json"
VOCABULARY = "vocabulary.parquet"
_FILE_TOKENS = 4_000_000

_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---

# Cached next-token targets

{n_sequences:,} sequences, {n_tokens:,} tokens, {n_targets:,} targets, as a teacher gave them: exported from a logitlake
lake. Row set `{row_set_id}`, content hash `{content_hash}`. `{note}` has the recipes and the rule that chose the rows.

Entry i of `target_ids` and `head_codes` is the target for token i+1 of `input_ids`. The first `len(head_codes[i])` ids
are heads with probability `head_codes[i] / levels`; the others share what is left to 1 equally. `vocabulary.parquet`
has the text of each id.
"""


def export_rows(lake: Lake, rows: RowSet, directory: Path, *, n_missing: int = 0) -> Path:
    """Write the rows of a row set to `directory`, which must not exist; whole or not at all.

    Files hold whole work units, in the order of their ids; memory holds one file.
    """
    with new_directory(directory) as staged:
        _write(lake, rows, staged, n_missing)
    return directory


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A staging directory that becomes `directory` at the end of the block, or vanishes if the block raises.

    Raises SettingsError if `directory` holds something.
    """
    if directory.exists() and any(directory.iterdir()):
        raise SettingsError(f"export {directory}: holds something already; name a directory that is empty or new")
    staged = staged_beside(directory)
    shutil.rmtree(staged, ignore_errors=True)
    try:
        with errors_name(directory):
            staged.mkdir(parents=True)
            yield staged
        if directory.exists():
            directory.rmdir()
        staged.rename(directory)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)  # on a full disk the leftovers would keep it full
        raise


def _write(lake: Lake, rows: RowSet, staged: Path, n_missing: int) -> None:
    (staged / "data").mkdir()
    for number, unit_ids in enumerate(_files(rows)):
        table = fetch(lake, rows, unit_ids, SEQUENCES.names)
        with (staged / "data" / f"part-{number:05d}.parquet").open("wb") as file:
            pq.write_table(_plain(table), file, compression="zstd")
    write_lineage(lake, rows, staged, n_missing)
    (staged / "README.md").write_text(_CARD.format(note=NOTE, **_described(rows)), encoding="utf-8")


def write_lineage(lake: Lake, rows: RowSet, directory: Path, n_missing: int) -> dict[str, Any]:
    """Write the note about the origin of the rows, and the text of their ids, into `directory`; returns the note."""
    note = {
        **_described(rows),
        "n_missing": n_missing,
        "format_version": FORMAT_VERSION,
        "recipes": _recipes(lake, rows),
    }
    (directory / NOTE).write_text(json.dumps(note, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _write_vocabulary(lake, rows, directory)
    return note


def _write_vocabulary(lake: Lake, rows: RowSet, directory: Path) -> None:
    """The view `vocabulary`, of the tokenizers of the rows. Beside `data/`, so that it is no part of the data set."""
    tokens = lake.sql(
        "SELECT tokenizer_id, token_id, token, is_special FROM vocabulary WHERE tokenizer_id IN "
        "(SELECT tokenizer_id FROM recipes WHERE list_contains(?, recipe_id)) ORDER BY tokenizer_id, token_id",
        [list(rows.recipe_ids)],
    )
    with (directory / VOCABULARY).open("wb") as file:
        pq.write_table(tokens, file, compression="zstd")


def _files(rows: RowSet) -> Iterator[list[str]]:
    """Work units of one file after the other."""
    units, tokens = list[str](), 0
    for unit in rows.units.to_pylist():
        if units and tokens + unit["n_tokens"] > _FILE_TOKENS:
            yield units
            units, tokens = [], 0
        units.append(unit["unit_id"])
        tokens += unit["n_tokens"]
    if units:
        yield units


def _plain(table: pa.Table) -> pa.Table:
    """The stored types; `weight`, if there is one, comes last."""
    extra = [table.schema.field(name) for name in table.column_names if name not in SEQUENCES.names]
    return table.cast(pa.schema([*SEQUENCES, *extra]))


def _described(rows: RowSet) -> dict[str, Any]:
    names = ("row_set_id", "recipe_ids", "up_to_commit", "where", "weight", "query", "held_out", "content_hash")
    counts = ("n_sequences", "n_tokens", "n_targets")
    return {name: getattr(rows, name) for name in (*names, *counts)}


def _recipes(lake: Lake, rows: RowSet) -> dict[str, Any]:
    recipes = lake.sql(
        "SELECT recipe_id, recipe FROM recipes WHERE list_contains(?, recipe_id)", [list(rows.recipe_ids)]
    )
    return {row["recipe_id"]: json.loads(row["recipe"]) for row in recipes.to_pylist()}
