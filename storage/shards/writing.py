"""One shard: an immutable Parquet file with the sequences of one work unit under one recipe.

Encodings were chosen by measurement (docs/format.md): token ids as plain integers, because zstd finds more in them than
a dictionary leaves; the narrow codes in dictionaries, which pack them into bytes; one page per column.
"""

import io
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import put_bytes
from logitlake.storage.errors import IntegrityError
from logitlake.storage.schema.sequences import FORMAT_VERSION, SEQUENCES, complete_rows, differing_rows

_ROW_GROUP_TOKENS = 131_072
_DICTIONARY_COLUMNS = [
    *("recipe_id", "unit_id", "corpus", "source", "levels", "n_tokens", "window_index", "start"),
    *("head_codes.list.element.list.element", "entropy_codes.list.element"),
]
# Only in steps of 1/32 nat: finer codes take fewer bytes as plain integers.
_COARSE_COLUMNS = ["nll_codes.list.element"]
# Ranges of these let DuckDB skip whole files.
_STATISTICS_COLUMNS = [
    *("recipe_id", "doc_id", "unit_id", "corpus", "source"),
    *("window_index", "start", "n_tokens", "n_targets", "mean_entropy", "mean_nll"),
]
_WRITE_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 19,
    "write_statistics": _STATISTICS_COLUMNS,
    "data_page_size": 8 << 20,
    "dictionary_pagesize_limit": 1 << 20,
    "store_schema": False,
    "version": "2.6",
}


def encode_shard(rows: pa.Table, recipe: Mapping[str, Any]) -> bytes:
    """The bytes of a shard of `rows` (SEQUENCES, hashes included), with format version and recipe in the footer."""
    footer = {
        "logitlake.format_version": str(FORMAT_VERSION),
        "logitlake.recipe": json.dumps(dict(recipe), sort_keys=True, ensure_ascii=False),
    }
    rows, buffer = complete_rows(rows), io.BytesIO()
    tokens_per_row = max(1, sum(rows["n_tokens"].to_pylist()) // max(1, rows.num_rows))
    coarse = rows["nll_steps_per_nat"].null_count == rows.num_rows
    dictionaries = _DICTIONARY_COLUMNS + (_COARSE_COLUMNS if coarse else [])
    with pq.ParquetWriter(buffer, SEQUENCES, use_dictionary=dictionaries, **_WRITE_OPTIONS) as writer:
        writer.write_table(rows, row_group_size=max(1, _ROW_GROUP_TOKENS // tokens_per_row))
        writer.add_key_value_metadata(footer)
    return buffer.getvalue()


def write_shard(location: LakeLocation, rows: pa.Table, recipe: Mapping[str, Any]) -> tuple[str, int]:
    """Stage, sync and rename the shard of one work unit; returns its path and size. Invisible until registered."""
    first = rows.slice(0, 1).select(["recipe_id", "unit_id"]).to_pylist()[0]
    content = encode_shard(rows, recipe)
    path = location.new_shard_path(first["recipe_id"], first["unit_id"])
    put_bytes(location, path.removeprefix(location.data), content)
    return path, len(content)


def check_rows(rows: pa.Table, where: str) -> None:
    """Compare every row with its hash (its checksum in format 1). Raises IntegrityError that names the first that
    differs."""
    damaged = rows.filter(differing_rows(rows))
    if damaged.num_rows:
        raise IntegrityError(damage(damaged, rows.num_rows, where))


def damage(damaged: pa.Table, n_rows: int, where: str) -> str:
    """What a person reads about rows that are not what was written."""
    first = damaged.slice(0, 1).select(["doc_id", "window_index"]).to_pylist()[0]
    return (
        f"{where}: {damaged.num_rows} of {n_rows} rows do not match their hash or checksum, the first is document "
        f"{first['doc_id']} window {first['window_index']}"
    )
