"""What a row of the cache is: Arrow schema, format version, and the checksum and hashes that travel with each row.

Row alignment: a sequence of n token ids has n entries in every per-position list; entry i speaks of token i+1, and the
last entry is empty. `docs/format.md` describes the same for people who read shards without this code.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from logitlake.storage.schema.row_bytes import hash_rows, list_hashes, one_chunk, rows_with_null_lists, value_bytes

FORMAT_VERSION = 2

# Entropy is stored in steps of 1/32 nat, rounded to the nearest, clipped at 65,535 steps. So are negative
# log-probabilities, unless the row names another number of steps per nat.
STEPS_PER_NAT = 32
STATISTIC_STEP = 1 / STEPS_PER_NAT

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
        # Since format 2; null in rows of format 1.
        pa.field("targets_hash", pa.uint64()),
        pa.field("row_hash", pa.uint64()),
        # Null: 32.
        pa.field("nll_steps_per_nat", pa.int32()),
        # Of a generated trace, else null.
        pa.field("writer", pa.string()),
        pa.field("sampling_settings", pa.string()),
        pa.field("sampling_seed", pa.int64()),
        pa.field("sample_number", pa.int32()),
        pa.field("writer_nll_codes", pa.list_(pa.field("element", pa.uint16()))),
        pa.field("writer_nll_steps_per_nat", pa.int32()),
        pa.field("verdict", pa.float64()),
        pa.field("verdict_reason", pa.string()),
    ]
)
# What is read from disk may be damaged: here every column may hold nulls.
_WITH_NULLS = pa.schema([field.with_nullable(True) for field in SEQUENCES])
HASHES = ("checksum", "targets_hash", "row_hash")

# What a capture hands to the commit, which adds the other columns.
CAPTURED = pa.schema([field for field in SEQUENCES if field.name not in ("unit_id", *HASHES)])

# What `checksum` covers. It is the identity of a row's content: row sets and students are named after it, so the list
# never changes. `unit_id` is not in it, so that the same capture made twice has the same checksums wherever the engine
# repeats itself. What it does not cover is covered by `row_hash`.
_HASHED_TEXT = ("recipe_id", "doc_id")
_HASHED_NUMBERS = ("window_index", "start", "levels")
_HASHED_LISTS = ("input_ids", "target_ids", "head_codes", "entropy_codes", "nll_codes")


# What `targets_hash` covers: the columns that a reader decodes.
_TARGET_NUMBERS = ("n_tokens", "n_targets", "levels")
_TARGET_LISTS = ("input_ids", "target_ids", "head_codes")
# Per position, null where there is no target. Always hashed as int32: a null in one row must not change another's hash.
_NULLABLE_LEAVES = ("entropy_codes", "nll_codes", "writer_nll_codes")


def with_checksums(rows: pa.Table) -> pa.Table:
    """`rows` with checksum, targets_hash and row_hash added or replaced, cast to SEQUENCES; absent columns are null."""
    rows = rows.drop_columns([name for name in HASHES if name in rows.column_names])
    rows = rows.append_column(SEQUENCES.field("checksum"), sequence_checksums(rows))
    return with_hashes(rows)


def with_hashes(rows: pa.Table) -> pa.Table:
    """`rows` with targets_hash and row_hash added or replaced and their checksums kept, cast to SEQUENCES.

    Whoever changes a column of stored rows, such as `unit_id`, calls this before they are written.
    """
    rows = rows.drop_columns([name for name in HASHES[1:] if name in rows.column_names])
    rows = rows.append_column(SEQUENCES.field("targets_hash"), targets_hashes(rows))
    rows = complete_rows(rows)
    return rows.set_column(rows.schema.get_field_index("row_hash"), SEQUENCES.field("row_hash"), row_hashes(rows))


def complete_rows(rows: pa.Table, schema: pa.Schema = SEQUENCES) -> pa.Table:
    """`rows` in `schema`; a column that may be null and is absent, as those of a later format, is null.

    Raises ValueError, or an error of Arrow, for rows that lack another column or have one of another type.
    """
    for field in schema:
        count = rows.column_names.count(field.name)
        if field.nullable and not count:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        elif count != 1:
            raise ValueError(f"column {field.name}: expected once, found {count} times")
    return rows.select(schema.names).cast(schema)


def stored_rows(rows: pa.Table) -> pa.Table:
    """Rows as they were read, in SEQUENCES but with nulls wherever they are: `differing_rows` says which are damage."""
    return complete_rows(rows, _WITH_NULLS)


def targets_hashes(rows: pa.Table) -> pa.Array:
    """One XXH3 hash (uint64) per row over the columns that a training reader decodes.

    What is hashed are 13 numbers of 64 bits: n_tokens, n_targets, levels, and `list_hashes` of the lists.
    """
    numbers = [_numbers(rows[name]).astype(np.uint64)[:, None] for name in _TARGET_NUMBERS]
    return hash_rows(np.concatenate([*numbers, *(list_hashes(rows[name]) for name in _TARGET_LISTS)], axis=1))


def row_hashes(rows: pa.Table) -> pa.Array:
    """One XXH3 hash (uint64) per row over every column of SEQUENCES but `row_hash` itself.

    Each column that is not null adds its name, a zero byte, its number of bytes (8 bytes) and its bytes, in the
    alphabetical order of the names, values before lists. A text is UTF-8; a whole number takes 8 bytes, a float is a
    double, and a list its `list_hashes` (codes that may be null as int32). A column that a later format adds, and that
    is null, changes no hash.
    """
    fields = sorted((field for field in SEQUENCES if field.name != "row_hash"), key=lambda field: field.name)
    values = [field.name for field in fields if not pa.types.is_list(field.type)]
    contents = [
        b"".join(_named(name, value_bytes(row[name])) for name in values if row[name] is not None)
        for row in rows.select(values).to_pylist()
    ]
    for field in fields:
        if pa.types.is_list(field.type):
            added = _named_lists(field.name, one_chunk(rows[field.name]))
            contents = [content + more for content, more in zip(contents, added, strict=True)]
    return pa.array([xxhash.xxh3_64_intdigest(content) for content in contents], pa.uint64())


def differing_targets(rows: pa.Table) -> pa.Array:
    """For each row that a reader has read, with its `targets_hash`, whether it is not what was written; without a hash,
    whether it has a null where none may be.

    Measured: 2.5 % of the time of reading and decoding the same columns.
    """
    differing = pc.fill_null(pc.not_equal(one_chunk(rows["targets_hash"]), targets_hashes(rows)), False)
    return pc.or_(differing, _wrong_nulls(rows, (*_TARGET_NUMBERS, *_TARGET_LISTS)))


def differing_rows(rows: pa.Table) -> pa.Array:
    """For each stored row, whether it is not what was written: by `row_hash`, or by checksum in a row of format 1.

    A null where the schema allows none is damage too: the hashes do not tell a null from an empty list.
    """
    damaged = pc.fill_null(pc.not_equal(one_chunk(rows["row_hash"]), row_hashes(rows)), False)
    damaged = pc.or_(damaged, _wrong_nulls(rows, SEQUENCES.names))
    old = pc.is_null(one_chunk(rows["row_hash"]))
    if not pc.any(old).as_py():
        return damaged
    of_format_1 = pc.fill_null(pc.not_equal(one_chunk(rows["checksum"]), sequence_checksums(rows)), True)
    return pc.or_(damaged, pc.and_(old, of_format_1))


def _wrong_nulls(rows: pa.Table, names: Iterable[str]) -> pa.Array:
    """For each row, whether one of the columns `names` has a null where the schema allows none, at any depth."""
    wrong = np.zeros(rows.num_rows, bool)
    for field in map(SEQUENCES.field, names):
        column = one_chunk(rows[field.name])
        if not field.nullable and column.null_count:
            wrong |= _numpy(column.is_null())
        if pa.types.is_list(field.type):
            within = rows_with_null_lists(column, null_leaves=field.name in _NULLABLE_LEAVES)
            wrong |= within & _numpy(column.is_valid())
    return pa.array(wrong)


def _named(name: str, content: bytes) -> bytes:
    return name.encode() + b"\0" + len(content).to_bytes(8, "little") + content


def _named_lists(name: str, lists: pa.ListArray) -> list[bytes]:
    """The bytes that a column of lists adds to each row's hash."""
    hashes = list_hashes(lists.cast(pa.list_(pa.int32())) if name in _NULLABLE_LEAVES else lists)
    contents = [row.tobytes() for row in hashes.astype("<u8")]
    return [
        _named(name, content) if valid else b""
        for content, valid in zip(contents, lists.is_valid().to_pylist(), strict=True)
    ]


def sequence_checksums(rows: pa.Table) -> pa.Array:
    """One 64-bit hash per row (16 hex characters) over ids, numbers and every list, structure included.

    Reads Arrow buffers, not Python objects: the cost is that of hashing the bytes.
    """
    rows = rows.combine_chunks()
    hashes = [hashlib.blake2b(digest_size=8) for _ in range(rows.num_rows)]
    for name in _HASHED_TEXT:
        for sha, text in zip(hashes, rows[name].to_pylist(), strict=True):
            sha.update((text or "").encode() + b"\0")
    numbers = np.stack([_numbers(rows[name]).astype("<i8") for name in _HASHED_NUMBERS], axis=1)
    for sha, row in zip(hashes, numbers, strict=True):
        sha.update(row.tobytes())
    for name in _HASHED_LISTS:
        _hash_lists(hashes, one_chunk(rows[name]))
    return pa.array([sha.hexdigest() for sha in hashes], pa.string())


def _hash_lists(hashes: "list[hashlib.blake2b]", lists: pa.ListArray) -> None:
    bounds = _numpy(lists.offsets)
    values = lists.values
    if pa.types.is_list(values.type):
        inner = _numpy(values.offsets).astype("<i8")
        leaves = np.ascontiguousarray(_numpy(pc.fill_null(values.values, 0)).astype("<i4"))
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


def _numbers(values: pa.ChunkedArray) -> np.ndarray:
    """Whole numbers; a null, which is damage, is 0."""
    return _numpy(pc.fill_null(values, 0) if values.null_count else values)


def _numpy(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    options = {"zero_copy_only": False} if isinstance(values, pa.Array) else {}
    return np.asarray(values.to_numpy(**options))
