"""What a row of the cache is: Arrow schema, format version, and the checksum that travels with each row.

Row alignment: a sequence of n token ids has n entries in every per-position list; entry i speaks of token i+1, and the
last entry is empty. `docs/format.md` describes the same for people who read shards without this code.
"""

import hashlib

import numpy as np
import pyarrow as pa

FORMAT_VERSION = 2

# Entropy and negative log-probability are stored in steps of 1/32 nat, rounded to the nearest, clipped at 65,535.
STATISTIC_STEP = 1 / 32

SEQUENCES = pa.schema(
    [
        pa.field("recipe_id", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("window_index", pa.int32(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("n_targets", pa.int32(), nullable=False),
        pa.field("levels", pa.int32(), nullable=False),
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("target_ids", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("head_codes", pa.list_(pa.list_(pa.uint16())), nullable=False),
        pa.field("entropy_codes", pa.list_(pa.uint16()), nullable=False),
        pa.field("nll_codes", pa.list_(pa.uint16()), nullable=False),
        pa.field("mean_entropy", pa.float32()),
        pa.field("mean_nll", pa.float32()),
        pa.field("checksum", pa.string(), nullable=False),
    ]
)

# What a capture hands to the commit, which adds the other two columns.
CAPTURED = pa.schema([field for field in SEQUENCES if field.name not in ("unit_id", "checksum")])

# Where a row lies and how it was reached may change by upkeep; what it says may not. `unit_id` stays out, so that the
# same capture made twice has the same checksums wherever the engine repeats itself.
_HASHED_TEXT = ("recipe_id", "doc_id")
_HASHED_NUMBERS = ("window_index", "start", "levels")
_HASHED_LISTS = ("input_ids", "target_ids", "head_codes", "entropy_codes", "nll_codes")


def with_checksums(rows: pa.Table) -> pa.Table:
    """`rows` with its column `checksum` added or replaced, cast to SEQUENCES."""
    if "checksum" in rows.column_names:
        rows = rows.drop_columns(["checksum"])
    return (
        rows.append_column(SEQUENCES.field("checksum"), sequence_checksums(rows))
        .select(SEQUENCES.names)
        .cast(SEQUENCES)
    )


def sequence_checksums(rows: pa.Table) -> pa.Array:
    """One 64-bit hash per row (16 hex characters) over ids, numbers and every list, structure included.

    Reads Arrow buffers, not Python objects: the cost is that of hashing the bytes.
    """
    rows = rows.combine_chunks()
    hashes = [hashlib.blake2b(digest_size=8) for _ in range(rows.num_rows)]
    for name in _HASHED_TEXT:
        for sha, text in zip(hashes, rows[name].to_pylist(), strict=True):
            sha.update(text.encode() + b"\0")
    numbers = np.stack([_numpy(rows[name]).astype("<i8") for name in _HASHED_NUMBERS], axis=1)
    for sha, row in zip(hashes, numbers, strict=True):
        sha.update(row.tobytes())
    for name in _HASHED_LISTS:
        _hash_lists(hashes, _one_chunk(rows[name]))
    return pa.array([sha.hexdigest() for sha in hashes], pa.string())


def _hash_lists(hashes: "list[hashlib.blake2b]", lists: pa.ListArray) -> None:
    bounds = _numpy(lists.offsets)
    values = lists.values
    if pa.types.is_list(values.type):
        inner = _numpy(values.offsets).astype("<i8")
        leaves = np.ascontiguousarray(_numpy(values.values).astype("<i4"))
        for sha, begin, end in zip(hashes, bounds[:-1], bounds[1:], strict=True):
            offsets = inner[begin : end + 1]
            sha.update((offsets - offsets[0]).tobytes())
            sha.update(leaves[offsets[0] : offsets[-1]].data)
        return
    # A null (no target here) must differ from every code: codes are 16 bits wide, so -1 is free.
    leaves = np.ascontiguousarray(_numpy(values.cast(pa.int32()).fill_null(-1)).astype("<i4"))
    for sha, begin, end in zip(hashes, bounds[:-1], bounds[1:], strict=True):
        sha.update(int(end - begin).to_bytes(8, "little"))
        sha.update(leaves[begin:end].data)


def _one_chunk(column: pa.ChunkedArray) -> pa.ListArray:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _numpy(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    options = {"zero_copy_only": False} if isinstance(values, pa.Array) else {}
    return np.asarray(values.to_numpy(**options))
